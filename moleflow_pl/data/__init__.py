"""From folders to batches: layouts, data sets, features of a task, and the data module.

Add a data layout in `layouts`. Private: `feature_store`, `task_features`, `splits`.
"""
