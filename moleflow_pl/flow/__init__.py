"""The shared normalizing flow and the experts on it.

Add an input adapter: subclass `adapters.InputAdapter` in a file of its own and register it with
`@ADAPTERS.add("name")`; a loss is a function with `@LOSSES.add("name")`, see `losses`. Every
module of this package is imported with it, so nothing else changes. Private: `autograd`,
`scoring_pass`.
"""

from moleflow_pl._internal.registry import import_modules

import_modules(__name__, __path__)
