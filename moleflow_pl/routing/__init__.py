"""Which product does an image show: prototypes, routers, and novelty of unknown products.

Add a router: subclass `router.PrototypeRouter` in a file of its own and register it with
`@ROUTERS.add("name")`.
"""
