"""The shared normalizing flow and the experts on it.

Add an input adapter: subclass `adapters.InputAdapter` in a file of its own and register it with
`@ADAPTERS.add("name")`; a loss likewise in `losses`. Private: `autograd` and `merged`.
"""
