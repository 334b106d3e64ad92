"""From folders to batches: layouts, data sets, the features of a task, and the data module.

Add a layout in `layouts`. Private: how features are kept (`feature_store`).
"""
