"""Shared parts of the benchmarks: products, fits, studies, baselines, timing, memory, tables.

Put a new baseline into `baselines.BASELINES`, a new backbone or setting into `plans`. Products,
orders, seeds and scores are data of a script. Nothing here imports a script; each module says which
scripts use it.
"""
