"""How a Lightning trainer writes and reads checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer

from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all, and read without running their code.

    Args:
        path: A checkpoint that has been read already.
        content: What `read_checkpoint` read from it; handed out once, then forgotten.
    """

    def __init__(self, path: Path | None = None, content: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.path, self.content = path, content

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write by way of a file beside it."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain data, whatever the caller would allow."""
        content, self.content = self.content, None
        if content is not None and self.path == Path(path):
            return content
        # into memory: the file may change while its tensors are in use
        return read_checkpoint(Path(path), mmap=False)


def use_whole_checkpoints(trainer: Trainer) -> None:
    """Let a trainer write and read by `WholeCheckpoints`, unless it has a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
