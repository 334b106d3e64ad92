"""Where a fit writes: on in its run, or in a folder made free for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder, move_aside
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)


def epochs_done(content: Mapping[str, Any]) -> int:
    """Epochs behind what was read from a checkpoint."""
    return TaskSchedule.from_state(content[STATE_KEY]["tasks"]).epochs_done


def is_newest(checkpoint: Path, content: Mapping[str, Any], run: RunFolder) -> bool:
    """Whether no checkpoint of a run is ahead of this one."""
    if checkpoint.resolve() == run.last.resolve():
        return True
    try:
        newest = epochs_done(read_checkpoint(run.last))
    except CheckpointError:  # there is none that can be read
        newest = 0
    return epochs_done(content) >= newest


def prepare_run(
    folder: Path,
    checkpoint: Path | None = None,
    content: Mapping[str, Any] | None = None,
    devices: int = 1,
) -> Path | None:
    """Make room for a fit; nothing is deleted.

    A fit from the newest checkpoint of the folder's run continues in it, and its curves begin a new
    file. Any other, also one from an earlier task of that run, moves it aside, to `<folder>~1`.

    Args:
        folder: The run folder.
        checkpoint: The file that the fit starts from, if any.
        content: What was read from it.
        devices: Processes that read it.

    Returns:
        Where the checkpoint is now.

    Raises:
        ConfigError: the run that is in the way cannot be moved, or not with the checkpoint in it
            that several processes read.
    """
    run = RunFolder(folder)
    inside = checkpoint is not None and RunFolder.of(checkpoint).root.resolve() == folder.resolve()
    if checkpoint and content and inside and is_newest(checkpoint, content, run):
        run.move_curves_aside()
        return checkpoint
    if not run.holds_run:
        return checkpoint
    if Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{folder.resolve()} holds a run and cannot be moved aside from within: set "
            "trainer.default_root_dir to another folder"
        )
    if inside and devices > 1:
        raise ConfigError(
            f"{checkpoint} is of the run in {folder}, which is further: on several devices "
            "set trainer.default_root_dir to another folder"
        )
    root = folder.resolve()
    aside = move_aside(folder)
    logger.info(f"the run that was in {folder} is now in {aside}")
    if checkpoint is None or not inside:
        return checkpoint
    return aside / checkpoint.resolve().relative_to(root)
