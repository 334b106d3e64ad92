"""`python -m moleflow_pl.service.learn`: learn one more product in a separate process.

The service starts it and continues to inspect. It reads a checkpoint, writes a new one into a work
folder, and reports its progress in a file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from moleflow_pl._internal.files import write_text
from moleflow_pl.callbacks.trainers import add_product
from moleflow_pl.errors import MoLEFlowError
from moleflow_pl.module import MoLEFlow
from moleflow_pl.service.products import PROGRESS

NICENESS = 10  # inspection has priority
LOOK = 0.5  # seconds between two looks at the parent process
FAILED = 3  # exit code if the progress file holds an error


class ProgressFile(Callback):
    """Writes the share of a task's epochs that are done.

    Args:
        folder: Folder of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Count the epoch."""
        task = pl_module.schedule.tasks[-1]
        write_progress(self.folder, share=task.epochs_done / task.epochs)


def write_progress(folder: Path, **values: Any) -> None:
    """Write the progress, or the error."""
    write_text(folder / PROGRESS, json.dumps(values))


def main(args: Sequence[str] | None = None) -> int:
    """Learn; return the exit code."""
    parser = argparse.ArgumentParser(prog="moleflow_pl.service.learn")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("images", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--backbone-weights")
    given = parser.parse_args(args)
    os.nice(NICENESS)
    logging.basicConfig(level=logging.INFO)
    try:
        learn(given)
    except MoLEFlowError as error:
        write_progress(given.work, error=str(error))
        return FAILED
    return 0


def learn(given: argparse.Namespace) -> None:
    """Add the product to the model of the checkpoint, and leave the result in the work folder."""
    moved = {} if given.backbone_weights is None else {"backbone_weights": given.backbone_weights}
    model = MoLEFlow.load_from_checkpoint(given.checkpoint, map_location="cpu", **moved)
    add_product(
        model, given.name, given.images, given.work, epochs_per_task=given.epochs,
        callbacks=[ProgressFile(given.work)], enable_progress_bar=False,
    )  # fmt: skip


def end_with_parent() -> None:
    """End this process and its own soon after its parent was killed: the next service learns anew.

    Processes that read images would survive if their parent ended while it starts them. So all are
    one group, which ends as a whole.
    """
    parent = os.getppid()
    os.setpgrp()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
