"""How a Lightning Trainer writes and reads checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer

from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.errors import CheckpointError

State = tuple[int, int, int]


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads them without running any code in them.

    Args:
        path: A checkpoint that has been read already.
        content: Its contents from `read_checkpoint`; handed out once, then forgotten.
        state: Its `file_state` before reading; None for a file that nothing else writes.
    """

    def __init__(
        self,
        path: Path | None = None,
        content: dict[str, Any] | None = None,
        state: State | None = None,
    ) -> None:
        super().__init__()
        self.path, self.content, self.state = path, content, state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write to a temporary file, and rename it."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain data alone, even if the caller allows more.

        Raises:
            CheckpointError: the file has changed since it was read.
        """
        content, self.content = self.content, None
        if content is not None and self.path == Path(path):
            # it was read before this command locked the folder: resuming would undo the change
            if self.state is not None and file_state(Path(path)) != self.state:
                raise CheckpointError(
                    f"{path} was changed by another command while this one started: run it again"
                )
            return content
        # not mapped: the file may change while its tensors are in use
        return read_checkpoint(Path(path), mmap=False)


def file_state(path: Path) -> State | None:
    """A fingerprint that differs between a file and one that replaced it, even after moving."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def use_whole_checkpoints(trainer: Trainer) -> None:
    """Set `WholeCheckpoints` as a Trainer's checkpoint IO, unless the user set another."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
