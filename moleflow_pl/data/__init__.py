"""From folders to batches: layouts, data sets, features of a task, and the data module.

Add a layout in `layouts`. Private: how features are stored (`feature_store`).
"""

from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.data.layouts.base import ImageRecord

__all__ = ["ContinualDataModule", "ImageRecord"]
