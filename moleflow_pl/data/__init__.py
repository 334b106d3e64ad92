"""From folders to batches: layouts, data sets, features of a task, and the data module.

Add a layout in `layouts`. Private: how features are stored (`feature_store`).
"""
