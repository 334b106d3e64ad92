"""Building blocks that every package uses. Private: users import nothing from here.

Plain functions for files, names, hashes, seeds, argument checks and processes; nothing here knows
a model.
"""
