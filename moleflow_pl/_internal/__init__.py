"""Building blocks that every package uses: files, names, hashes, seeds, checks, processes.

All of it is private: users import nothing from here. Nothing here depends on a model. A new module
holds one concern and imports only `errors` and its neighbours.
"""
