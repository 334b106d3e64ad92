"""What the benchmarks share: products, fits, studies, baselines, timing, memory, tables.

A new baseline goes into `baselines.BASELINES`, a new backbone or setting into `plans`. Products,
orders, seeds and scores are data of a script's plan. Nothing here imports a script.
"""
