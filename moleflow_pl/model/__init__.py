"""The model without Lightning: `Inspector` for inference, `TaskLearner` for fitting tasks.

Build an inspector with `build.build_inspector`; `restore` reads one from a checkpoint. A new
argument goes into `arguments.ModelArguments`, and into `STRUCTURE` there if tensors depend on it.
Private: `leave_one_out`, `task_statistics`.
"""
