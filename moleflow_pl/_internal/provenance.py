"""Where a result comes from: versions, hardware."""

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
    found = {"Python": platform.python_version(), "moleflow": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, str]:
    """What the process runs on."""
    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "CPU cores": str(os.cpu_count()),
        "threads of torch": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found
