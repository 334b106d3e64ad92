"""Building blocks that every package uses. Private: nothing here is meant to be imported by users.

Plain functions for files, names, hashes, seeds, checks of values, and processes; nothing here
knows a model.
"""
