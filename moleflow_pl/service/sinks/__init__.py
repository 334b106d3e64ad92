"""Receivers of inspections, one file for each kind.

A sink is a class in the registry `SINKS` of `base`; `--sink KIND:ADDRESS` chooses it.
"""

from moleflow_pl._internal.registry import import_modules

import_modules(__name__, __path__)
