"""MoLE-Flow: continual anomaly detection by experts on one normalizing flow.

`__all__` names what users import; modules are private unless they are the home of such a name in
`HOMES`, or a package's docstring says how to extend it. A new public name goes into both lists.
Axes everywhere: B images, h w patch grid, H W pixels, D channels of a patch, T tasks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow_pl.callbacks.trainers import add_product
    from moleflow_pl.data.datamodule import ContinualDataModule
    from moleflow_pl.errors import MoLEFlowError
    from moleflow_pl.features.extractor import PatchExtractor
    from moleflow_pl.flow.film import TaskInputAdapter
    from moleflow_pl.flow.lora import LoRALinear, MoLESubnet
    from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
    from moleflow_pl.flow.whitening import WhiteningAdapter
    from moleflow_pl.inference.decisions import Prediction
    from moleflow_pl.inference.heatmap import draw_heatmap
    from moleflow_pl.inference.predictor import Predictor
    from moleflow_pl.module import MoLEFlow
    from moleflow_pl.routing.prototypes import TaskPrototype
    from moleflow_pl.routing.router import PrototypeRouter

__version__ = "0.3.0"

# imported on first use: `moleflow --help` needs none of it, and torch alone takes seconds
HOMES = {
    "ContinualDataModule": "data.datamodule",
    "LoRALinear": "flow.lora",
    "MoLEFlow": "module",
    "MoLEFlowError": "errors",
    "MoLESpatialAwareNF": "flow.spatial_nf",
    "MoLESubnet": "flow.lora",
    "PatchExtractor": "features.extractor",
    "Prediction": "inference.decisions",
    "Predictor": "inference.predictor",
    "PrototypeRouter": "routing.router",
    "TaskInputAdapter": "flow.film",
    "TaskPrototype": "routing.prototypes",
    "WhiteningAdapter": "flow.whitening",
    "add_product": "callbacks.trainers",
    "draw_heatmap": "inference.heatmap",
}

__all__ = [
    "ContinualDataModule",
    "LoRALinear",
    "MoLEFlow",
    "MoLEFlowError",
    "MoLESpatialAwareNF",
    "MoLESubnet",
    "PatchExtractor",
    "Prediction",
    "Predictor",
    "PrototypeRouter",
    "TaskInputAdapter",
    "TaskPrototype",
    "WhiteningAdapter",
    "__version__",
    "add_product",
    "draw_heatmap",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The names that tab completion offers."""
    return __all__
