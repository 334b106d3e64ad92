"""How a Lightning trainer writes and reads checkpoints."""

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
    """Checkpoints that are written whole or not at all, and read without running their code.

    Args:
        path: A checkpoint that has been read already.
        content: What `read_checkpoint` read from it; handed out once, then forgotten.
        state: What `file_state` said of it before; none for a file that nothing else writes.
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
        """Write by way of a file beside it."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain data, whatever the caller would allow.

        Raises:
            CheckpointError: what was read before is no longer what the file holds.
        """
        content, self.content = self.content, None
        if content is not None and self.path == Path(path):
            # it was read before this command held the folder: going on would undo the change
            if self.state is not None and file_state(Path(path)) != self.state:
                raise CheckpointError(
                    f"{path} was changed by another command while this one began: run it again"
                )
            return content
        # into memory: the file may change while its tensors are in use
        return read_checkpoint(Path(path), mmap=False)


def file_state(path: Path) -> State | None:
    """What tells a file from one that has replaced it, also where either was moved."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def use_whole_checkpoints(trainer: Trainer) -> None:
    """Let a trainer write and read by `WholeCheckpoints`, unless it has a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
