"""How data sets lie on disk, a file a family.

Add a layout: subclass `base.RootedLayout` in a file of its own and register it with
`@LAYOUTS.add("name")` from `registry`.
"""
