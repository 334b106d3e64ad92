"""MoLE-Flow: continual anomaly detection by experts on one normalizing flow.

Axes everywhere: B images, h w patch grid, H W pixels, D channels of a patch, T tasks.
"""

from moleflow_pl.data import ContinualDataModule
from moleflow_pl.extractor import PatchExtractor
from moleflow_pl.flow import MoLESpatialAwareNF
from moleflow_pl.input_adapter import TaskInputAdapter
from moleflow_pl.lora import LoRALinear, MoLESubnet
from moleflow_pl.module import MoLEFlow
from moleflow_pl.router import PrototypeRouter, TaskPrototype

__all__ = [
    "ContinualDataModule",
    "LoRALinear",
    "MoLEFlow",
    "MoLESpatialAwareNF",
    "MoLESubnet",
    "PatchExtractor",
    "PrototypeRouter",
    "TaskInputAdapter",
    "TaskPrototype",
]
