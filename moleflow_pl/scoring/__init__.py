"""From latents to anomaly scores: of patches, maps and images.

Add a patch score: subclass `patch_scores.PatchScore` in a file of its own and register it with
`@PATCH_SCORES.add("name")`; an image score is a function with `@IMAGE_SCORES.add("name")`, see
`functional`. Every module of this package is imported with it, so nothing else changes.
Private: `bank_search`.
"""

from moleflow_pl._internal.registry import import_modules

import_modules(__name__, __path__)
