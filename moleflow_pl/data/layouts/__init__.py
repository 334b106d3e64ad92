"""Layouts of data sets on disk, a file for each family.

Add a layout: subclass `base.RootedLayout` in a file of its own and register it with
`@LAYOUTS.add("name")` from `registry`. Every module of this package is imported with it, so nothing
else changes. Private: all modules but `base` and `registry`.
"""

from moleflow_pl._internal.registry import import_modules

import_modules(__name__, __path__)
