"""Where a fit writes: into the run it resumes, or into a folder that is cleared for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder, move_aside
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import CheckpointError, ConfigError, OutputError
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)


def epochs_done(content: Mapping[str, Any]) -> int:
    """Epochs that a checkpoint's run has done."""
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
    """Clear the run folder for a fit; nothing is deleted.

    A fit from the newest checkpoint of the folder's run continues in it, with a new file for its
    curves. Any other fit, also one from an earlier task of that run, moves the run to `<folder>~1`.
    A folder without a run may hold anything but files that the fit would overwrite.

    Args:
        folder: The run folder.
        checkpoint: The file that the fit starts from, if any.
        content: Its contents.
        devices: Number of processes that read it.

    Returns:
        The new path of the checkpoint.

    Raises:
        ConfigError: the run in the folder cannot be moved, or several processes read the checkpoint
            in it.
        OutputError: the folder holds no run, but files that the fit would overwrite.
    """
    run = RunFolder(folder)
    inside = checkpoint is not None and RunFolder.of(checkpoint).root.resolve() == folder.resolve()
    if checkpoint and content and inside and is_newest(checkpoint, content, run):
        return checkpoint
    if not run.holds_run:
        require_free(run)
        return checkpoint
    if Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{folder.resolve()} holds a run and is the working directory, so that it cannot be "
            "moved aside: set trainer.default_root_dir to another folder"
        )
    if inside and devices > 1:
        raise ConfigError(
            f"{checkpoint} is not the newest checkpoint of the run in {folder}: on several devices "
            "set trainer.default_root_dir to another folder"
        )
    root = folder.resolve()
    aside = move_aside(folder)
    logger.info(f"moved the earlier run in {folder} to {aside}")
    if checkpoint is None or not inside:
        return checkpoint
    return aside / checkpoint.resolve().relative_to(root)


def require_free(run: RunFolder) -> None:
    """Check that a folder, unless a fit has begun there, has nothing that a fit would overwrite.

    Raises:
        OutputError: a fit would overwrite a file.
    """
    if not run.holds_run and (names := run.conflicts):
        raise OutputError(
            f"{run.root} holds no run (neither {run.config.name} nor {run.last.name}), but "
            f"{', '.join(names)}, which a fit would overwrite: choose another folder "
            "(--trainer.default_root_dir), or move them away"
        )
