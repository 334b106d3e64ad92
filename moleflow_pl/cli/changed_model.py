"""Write a changed checkpoint, and name the exported files that are now out of date."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moleflow_pl.checkpoints.expert_edits import Checkpoint

logger = logging.getLogger(__name__)

HASHES = ".sha256"  # beside an exported file


def save_changed(checkpoint: Checkpoint, path: Path) -> None:
    """Write a changed checkpoint, and report it; see `report_changed`."""
    # torch takes seconds to import
    from moleflow_pl.checkpoints.io import write_checkpoint

    write_checkpoint(checkpoint, path)
    report_changed(path)


def report_changed(path: Path) -> None:
    """Log where a changed checkpoint is, and which exported files hold the old model."""
    from moleflow_pl.checkpoints.run_folder import RunFolder

    logger.info(f"saved: {path}")
    run = RunFolder.of(path)
    old = [file.name for file in sorted(run.export.glob("*")) if file.suffix != HASHES]
    if old:
        logger.info(
            f"{', '.join(old)} in {run.export} still holds the old model: moleflow export "
            f"{run.root} writes the new one"
        )
