"""The command `moleflow`: `main` finds the verb's module and imports that alone.

Add a verb: a module with `main(args)` and a line in `main.VERBS`.
"""
