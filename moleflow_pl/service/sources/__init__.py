"""Sources of images, one file for each kind.

A source is a class in the registry `SOURCES` of `base`; `--source KIND:ADDRESS` chooses it.
"""

from moleflow_pl._internal.registry import import_modules

import_modules(__name__, __path__)
