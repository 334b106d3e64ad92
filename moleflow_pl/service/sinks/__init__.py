"""Receivers of inspections, one file for each kind.

Add a sink: a class with `@SINKS.add("kind")` of `base`, in a file of its own; `--sink KIND:ADDRESS`
chooses it. Private: all modules but `base`.
"""

from moleflow_pl._internal.registry import import_modules

import_modules(__name__, __path__)
