"""The model without Lightning: `Inspector` for inference, `TaskLearner` for what a task fits.

Build one with `build.build_inspector`; `restore` reads one from a checkpoint.
"""
