"""What several devices and reduced precision need, and what is refused."""

from __future__ import annotations

import logging

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from moleflow_pl._internal.lightning_compat import (
    cpu_has_bfloat16,
    replaces_samplers,
    starts_scripts,
)
from moleflow_pl.errors import ConfigError

logger = logging.getLogger(__name__)

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def check_devices(trainer: Trainer) -> None:
    """Refuse settings under which devices would silently train or score apart from each other.

    Raises:
        ConfigError: several devices by another strategy than `ddp`, or shared out by Lightning.
    """
    if trainer.world_size == 1:
        return
    strategy = trainer.strategy
    if not (isinstance(strategy, DDPStrategy) and starts_scripts(trainer)):
        raise ConfigError(
            f"{trainer.world_size} devices work with trainer.strategy ddp alone, got "
            f"{type(strategy).__name__}"
        )
    if replaces_samplers(trainer):
        raise ConfigError(
            "set trainer.use_distributed_sampler to false: Lightning's sampler scores some test "
            "images twice, and the data module shares them out itself"
        )


def check_precision(trainer: Trainer) -> None:
    """Refuse a precision in which a density means nothing, or that the hardware lacks.

    Raises:
        ConfigError: weights in another format than float32, or bfloat16 on a GPU without it.
    """
    precision = str(trainer.precision)
    if precision not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision {precision}: a likelihood in half precision is off by more than "
            "patches differ, and float64 costs time alone; use bf16-mixed, which keeps the flow in "
            "float32, or 32-true"
        )
    if precision != "bf16-mixed":
        return
    device = trainer.strategy.root_device.type
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("this GPU has no bfloat16: use trainer.precision 16-mixed or 32-true")
    if device == "cpu" and not cpu_has_bfloat16():
        logger.warning("this CPU has no bfloat16 and may be far slower: use precision 32-true")


def rewrap_ddp(trainer: Trainer) -> None:
    """Wrap the model again, so that DDP sees the parameters there are now.

    DDP averages the gradients of the parameters that required them when it wrapped the model;
    later ones would silently differ between ranks.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy.model = trainer.lightning_module
        strategy.configure_ddp()
        assert isinstance(strategy.model, DistributedDataParallel)
        # no buffer changes in training, and the flow's rotations are large
        strategy.model.broadcast_buffers = False
