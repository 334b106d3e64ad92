"""Versions and hardware that a result was computed with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from moleflow_pl import __version__

PACKAGES = (
    "torch", "lightning", "timm", "FrEIA", "torchmetrics", "numpy", "scipy", "pillow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on.

    Example:
        >>> "torch" in versions()
        True
    """
    by_package = {"Python": platform.python_version(), "moleflow": __version__}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            by_package[package] = "not installed"
    return by_package


def hardware() -> dict[str, str]:
    """The machine that this process runs on."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "CPU cores": str(os.cpu_count()),
        "threads of torch": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts
