"""Sources of images, one file for each kind.

Add a source: a class with `@SOURCES.add("kind")` of `base`, in a file of its own; `--source
KIND:ADDRESS` chooses it. Private: all modules but `base`.
"""

from moleflow_pl._internal.registry import import_modules

import_modules(__name__, __path__)
