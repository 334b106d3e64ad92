"""Write a changed checkpoint, and name the files of its run that are now out of date."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow_pl._internal.printable import command_line
from moleflow_pl.cli.export import SUFFIXES

if TYPE_CHECKING:
    from moleflow_pl.checkpoints.expert_edits import Checkpoint

logger = logging.getLogger(__name__)

WHOLE = "moleflow"  # stem of an exported file with all experts
BESIDE = (".sha256", ".data")  # written together with an exported file


def save_changed(checkpoint: Checkpoint, path: Path) -> None:
    """Write a changed checkpoint, and report it; see `report_changed`."""
    # torch takes seconds to import
    from moleflow_pl.checkpoints.io import write_checkpoint

    write_checkpoint(checkpoint, path)
    report_changed(path, checkpoint)


def report_changed(path: Path, checkpoint: Checkpoint) -> None:
    """Log where a changed checkpoint is, which files hold the old model, and what renews them."""
    logger.info(f"saved: {path}")
    for line in outdated(path, checkpoint):
        logger.info(line)


def outdated(path: Path, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a line for each file of a run that is older than its changed checkpoint."""
    from moleflow_pl.checkpoints.run_folder import RunFolder

    run = RunFolder.of(path)
    exported = [
        file for file in sorted(run.export.glob("*"))
        if file.is_file() and file.suffix not in BESIDE
    ]  # fmt: skip
    model = run.root if path == run.last else path
    names = names_in(checkpoint)
    for file in exported:
        yield f"{file} holds the old model{renewal(file, model, names)}"
    if run.page.exists():
        test = command_line(["moleflow", "test", str(model)]) + options_to_test(checkpoint)
        yield f"{run.page} shows the old thresholds: {test} writes it anew"


def names_in(checkpoint: Checkpoint) -> set[str]:
    """Return the names of the tasks of a checkpoint and of their products."""
    from moleflow_pl.checkpoints.schema import STATE_KEY
    from moleflow_pl.tasks.schedule import TaskSchedule

    tasks = TaskSchedule.from_state(checkpoint[STATE_KEY]["tasks"]).tasks
    return {name for task in tasks for name in (task.name, *task.products)}


def renewal(file: Path, model: Path, names: Collection[str]) -> str:
    """Return in words which command writes an exported file anew; empty if none does.

    Args:
        file: The file.
        model: The run or the checkpoint to export.
        names: Names of which each may be the product whose expert the file holds.

    Example:
        >>> renewal(Path("export/b.pt2"), Path("runs/demo"), ["b"])
        ': moleflow export runs/demo --format torch --product b writes it anew'
    """
    kinds = [kind for kind, suffix in SUFFIXES.items() if file.suffix == suffix]
    if not kinds:
        return ", if it was made of an exported file"
    words = ["moleflow", "export", str(model)]
    words += [] if kinds == ["onnx"] else ["--format", *kinds]
    added = ""
    if file.stem in names:
        words += ["--product", file.stem]
    elif file.stem != WHOLE:
        words += ["--output", str(file)]
        added = ", with --product NAME if it held one product,"
    return f": {command_line(words)}{added} writes it anew"


def options_to_test(checkpoint: Checkpoint) -> str:
    """Return the options that `moleflow test` needs for a run; some if it had no test images."""
    from moleflow_pl.checkpoints.schema import run_arguments
    from moleflow_pl.data.layouts.registry import LAYOUTS
    from moleflow_pl.data.no_images import WITH_TESTS, has_good_alone

    layout = run_arguments(checkpoint).get("data", {}).get("layout")
    return f" {WITH_TESTS}" if layout in LAYOUTS and has_good_alone(layout) else ""
