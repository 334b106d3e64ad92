"""Metrics of raw scores, and the task matrix with forgetting and transfer.

Functions of scores and labels that know no model. A new metric goes into `image` or `pixel`, its
name into `METRICS`, its value into `TaskScores.metrics`.
"""
