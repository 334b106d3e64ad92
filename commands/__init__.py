"""The verbs of the command `moleflow`, a module each."""
