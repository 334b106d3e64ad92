"""Which product an image shows: prototypes, routers, and novelty of unknown products.

Add a router: subclass `router.PrototypeRouter` in a file of its own and register it with
`@ROUTERS.add("name")`; what a router sees of an image is an `image_features.ImageFeatures` with
`@IMAGE_FEATURES.add("name")`. Every module of this package is imported with it, so nothing else
changes. Private: `region_router`, which `pooled` builds for regions.
"""

from moleflow_pl._internal.registry import import_modules

import_modules(__name__, __path__)
