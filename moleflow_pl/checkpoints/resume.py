"""Where a fit writes: on in its run, or in a folder made free for it."""

from __future__ import annotations

import logging
from pathlib import Path

from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder, move_aside
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)


def epochs_done(checkpoint: Path) -> int:
    """Epochs behind a checkpoint; 0 where there is none that can be read."""
    try:
        tasks = read_checkpoint(checkpoint)[STATE_KEY]["tasks"]
    except CheckpointError:
        return 0
    return TaskSchedule.from_state(tasks).epochs_done


def prepare_run(folder: Path, checkpoint: Path | None, devices: int = 1) -> Path | None:
    """Make room for a fit; nothing is deleted.

    A fit that goes on where the folder's run is writes on in it, and its curves begin a new file.
    Any other, also one from an earlier task of that run, moves it aside, to `<folder>~1`.

    Returns:
        Where the checkpoint is now.

    Raises:
        ConfigError: the run that is in the way cannot be moved, or not with the checkpoint in it
            that several processes read.
    """
    run = RunFolder(folder)
    inside = checkpoint is not None and RunFolder.of(checkpoint).root.resolve() == folder.resolve()
    behind = epochs_done(run.last)
    if checkpoint is not None and inside and epochs_done(checkpoint) >= behind:
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
            f"{checkpoint} is of the run in {folder}, which goes on behind it: on several devices "
            "set trainer.default_root_dir to another folder"
        )
    root = folder.resolve()
    aside = move_aside(folder)
    print(f"the run that was in {folder} is now in {aside}")
    if checkpoint is None or not inside:
        return checkpoint
    return aside / checkpoint.resolve().relative_to(root)
