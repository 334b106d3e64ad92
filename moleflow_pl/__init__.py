"""MoLE-Flow: continual anomaly detection by experts on one normalizing flow.

Axes everywhere: B images, h w patch grid, H W pixels, D channels of a patch, T tasks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow_pl.data import ContinualDataModule
    from moleflow_pl.extractor import PatchExtractor
    from moleflow_pl.flow import MoLESpatialAwareNF
    from moleflow_pl.input_adapter import TaskInputAdapter
    from moleflow_pl.lora import LoRALinear, MoLESubnet
    from moleflow_pl.module import MoLEFlow
    from moleflow_pl.predictor import Predictor
    from moleflow_pl.router import PrototypeRouter, TaskPrototype

# imported when asked for: `moleflow --help` needs none of it, and torch alone takes seconds
HOMES = {
    "ContinualDataModule": "data",
    "LoRALinear": "lora",
    "MoLEFlow": "module",
    "MoLESpatialAwareNF": "flow",
    "MoLESubnet": "lora",
    "PatchExtractor": "extractor",
    "Predictor": "predictor",
    "PrototypeRouter": "router",
    "TaskInputAdapter": "input_adapter",
    "TaskPrototype": "router",
}

__all__ = [
    "ContinualDataModule",
    "LoRALinear",
    "MoLEFlow",
    "MoLESpatialAwareNF",
    "MoLESubnet",
    "PatchExtractor",
    "Predictor",
    "PrototypeRouter",
    "TaskInputAdapter",
    "TaskPrototype",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What completion shows."""
    return __all__
