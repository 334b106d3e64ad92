"""The command `moleflow`: `main` looks up the verb's module and imports only that one.

Add a verb: a module with `main(args)`, where `args` follow the verb, and a line in `main.VERBS`.
Everything else here is private.
"""
