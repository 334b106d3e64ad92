"""Data sets, their layouts, and the batches of a run."""

from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.data.layouts import ImageRecord

__all__ = ["ContinualDataModule", "ImageRecord"]
