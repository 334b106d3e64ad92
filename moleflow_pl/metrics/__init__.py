"""Metrics of raw scores, and the task matrix with forgetting and transfer.

Functions of scores and labels, without a model. Put a new metric into `image` or `pixel`, its name
into `names.METRICS`, and its value into `TaskScores.metrics`. No module is private.
"""
