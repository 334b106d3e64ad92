"""Figures of merit on raw scores, and the task matrix with forgetting and transfer.

Pure functions over scores and labels; nothing here knows a model.
"""
