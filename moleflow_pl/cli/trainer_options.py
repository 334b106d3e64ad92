"""Checks of Trainer options that Lightning accepts, but that make the run fail later."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from moleflow_pl.errors import ConfigError

COUNTS = ("accumulate_grad_batches", "check_val_every_n_epoch")  # Lightning divides by them
HIGHEST_SEED = 2**32 - 1  # of numpy
REASON = re.compile(r"^Errors:\s+- (.+)$", re.MULTILINE)


def check_options(trainer: Any) -> None:
    """Check the parsed options of a Trainer before it is built.

    Raises:
        ConfigError: an option cannot be used here; the message names it.
    """
    if trainer.default_root_dir is None:
        raise ConfigError("trainer.default_root_dir null: give the run folder, such as runs/mine")
    require_checkpoints(trainer)
    if trainer.max_epochs not in (None, -1):
        raise ConfigError(
            f"trainer.max_epochs {trainer.max_epochs}: leave it out and set "
            "schedule.epochs_per_task instead"
        )
    for name in COUNTS:
        value = getattr(trainer, name)
        if value is not None and value < 1:
            raise ConfigError(f"trainer.{name} {value}: it must be at least 1")
    check_interval(trainer)
    if "Timer" in class_names(trainer.callbacks):
        raise ConfigError(
            "trainer.callbacks: Timer has settings that no configuration file can hold: set "
            "trainer.max_time instead, such as 00:01:30:00 for 90 minutes"
        )


def check_seed(seed: Any) -> None:
    """Raise ConfigError for a seed that Lightning and numpy cannot use."""
    if not 0 <= (seed or 0) <= HIGHEST_SEED:
        raise ConfigError(f"seed_everything {seed}: it must be 0 to {HIGHEST_SEED}")


def check_interval(trainer: Any) -> None:
    """Raise ConfigError for a number of batches within an epoch, which a task may not have."""
    interval = trainer.val_check_interval
    if isinstance(interval, int) and trainer.check_val_every_n_epoch is not None:
        raise ConfigError(
            f"trainer.val_check_interval {interval} is a number of batches, and a task may have "
            "fewer: give a share of an epoch, such as 0.5, or count the batches of all epochs with "
            "--trainer.check_val_every_n_epoch null"
        )


def require_checkpoints(trainer: Any) -> None:
    """Raise ConfigError for options that disable checkpoints."""
    off = "trainer.enable_checkpointing false" if trainer.enable_checkpointing is False else ""
    off = "trainer.barebones true" if trainer.barebones else off
    if off:
        raise ConfigError(
            f"{off}: without checkpoints nothing of a run would be saved. Leave it out, or try a "
            "few batches with --trainer.fast_dev_run true"
        )


def class_names(callbacks: Any) -> Iterator[str]:
    """Names of the classes of parsed callbacks, without their packages."""
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        yield str(getattr(callback, "class_path", "")).rpartition(".")[2]


def refused_value(error: Exception) -> str | None:
    r"""The reason for which jsonargparse refuses the value of a class; None for another error.

    Example:
        >>> refused_value(ValueError("Does not validate\nErrors:\n  - x must be >= 0\n  - else"))
        'x must be >= 0'
    """
    found = REASON.search(str(error)) if isinstance(error, ValueError) else None
    return found and found[1]
