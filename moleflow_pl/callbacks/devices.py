"""Checks of devices and precision, and DDP for a model that grows."""

from __future__ import annotations

import logging

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from moleflow_pl._internal.lightning_compat import replaces_samplers, starts_scripts
from moleflow_pl._internal.torch_compat import has_bfloat16_kernels
from moleflow_pl.errors import ConfigError

logger = logging.getLogger(__name__)

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def check_devices(trainer: Trainer) -> None:
    """Raise an error for settings under which devices would silently give different results.

    Raises:
        ConfigError: several devices with another strategy than `ddp`, or Lightning's sampler.
    """
    if trainer.world_size == 1:
        return
    strategy = trainer.strategy
    if not (isinstance(strategy, DDPStrategy) and starts_scripts(trainer)):
        raise ConfigError(
            f"{trainer.world_size} devices need trainer.strategy ddp, got {type(strategy).__name__}"
        )
    if replaces_samplers(trainer):
        raise ConfigError(
            "set trainer.use_distributed_sampler to false: Lightning's sampler scores some test "
            "images twice, and the data module distributes them itself"
        )


def check_precision(trainer: Trainer) -> None:
    """Raise an error for a precision that is too coarse for a density, or that the GPU lacks.

    Raises:
        ConfigError: weights are not in float32, or the GPU has no bfloat16.
    """
    precision = str(trainer.precision)
    if precision not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision {precision}: in half precision a likelihood has a larger error "
            "than its spread over patches, and float64 is only slower; use 32-true, or bf16-mixed, "
            "which keeps the flow in float32"
        )
    if precision != "bf16-mixed":
        return
    device = trainer.strategy.root_device.type
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("this GPU has no bfloat16: use trainer.precision 16-mixed or 32-true")
    if device == "cpu" and not has_bfloat16_kernels():
        logger.warning("this CPU has no bfloat16 and may be far slower: use precision 32-true")


def rewrap_ddp(trainer: Trainer) -> None:
    """Wrap the model again, so that DDP sees the parameters there are now.

    DDP averages the gradients of the parameters that existed when it wrapped the model; later ones
    would silently differ between ranks.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy.model = trainer.lightning_module
        strategy.configure_ddp()
        assert isinstance(strategy.model, DistributedDataParallel)
        # no buffer changes in training, and the flow's rotations are large
        strategy.model.broadcast_buffers = False
