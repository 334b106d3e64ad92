"""`moleflow calibrate`: show or change the thresholds of a trained model, without training."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moleflow_pl.cli import moved_weights
from moleflow_pl.cli.changed_model import save_changed
from moleflow_pl.cli.mistakes import VerbParser
from moleflow_pl.cli.run_argument import CHECKPOINT, SETTINGS

if TYPE_CHECKING:
    from moleflow_pl.tasks.schedule import Task, TaskSchedule
    from moleflow_pl.tasks.thresholds import Threshold

logger = logging.getLogger(__name__)

EXAMPLE = "example: moleflow calibrate runs/demo --false-alarm-rate 0.001"
OPTIONS: dict[str, dict[str, Any]] = {
    CHECKPOINT: SETTINGS,
    "--false-alarm-rate": {
        "type": float,
        "metavar": "RATE",
        "help": "share of good images that may be called defective, such as 0.001",
    },
    "--exclude": {
        "type": Path,
        "metavar": "FILE",
        "help": "leave calibration images out: a text file with a name or path on each line",
    },
    "--product": {
        "metavar": "NAME",
        "help": "change only this product, and those that were learned at once with it and share "
        "its expert; default: all",
    },
}
# by these, 80 columns are enough; see `threshold_row`
COLUMNS = ("product", "calibration\nimages", "threshold at\ntarget rate", "99 % interval")
CAPTION = (
    "The 99 % confidence interval is that of the true rate. A target below 1 / (images + 1) "
    "extrapolates the tail of the scores: rely on the interval."
)


def main(args: Sequence[str]) -> None:
    """Show each product's threshold, or change it, without training."""
    options = make_parser().parse_args(args)
    # after parsing: torch takes seconds to import
    from moleflow_pl._internal.console import print_table

    if options.backbone_weights is not None:
        moved_weights.save_place(options.ckpt_path, options.backbone_weights)
    excluded = [] if options.exclude is None else read_names(options.exclude)
    rate = options.false_alarm_rate
    before, now = calibrate(options.ckpt_path, rate, options.product, excluded)
    if excluded:
        logger.info(describe_excluded(before, now))
    if rate is not None and options.product is not None:
        report_shared_rate(now, options.product)
    print_table(threshold_table(now, before if rate is not None or excluded else None))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the verb's options."""
    parser = VerbParser(
        prog="moleflow calibrate",
        usage="moleflow calibrate RUN [options]",
        description=main.__doc__,
        epilog=EXAMPLE,
    )
    for name, settings in OPTIONS.items():
        parser.add_argument(name, **settings)
    moved_weights.add_option(parser, saved=True)
    return parser


def read_names(path: Path) -> list[str]:
    """Read names of images from the lines of a text file; blank lines are skipped.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    from moleflow_pl._internal.files import regular
    from moleflow_pl.errors import ConfigError

    try:
        lines = regular(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"cannot read --exclude {path}: {reason}; give a text file in UTF-8"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ConfigError(f"--exclude {path} names no image: write a name or path on each line")
    return names


def calibrate(
    path: Path, rate: float | None, product: str | None, excluded: Sequence[str] = ()
) -> tuple[TaskSchedule, TaskSchedule]:
    """Set a false-alarm rate in a checkpoint unless it is None, and leave images out.

    Returns:
        The tasks of the checkpoint before and after.
    """
    from moleflow_pl.checkpoints.io import read_checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.checkpoints.run_lock import locked_for
    from moleflow_pl.checkpoints.schema import STATE_KEY
    from moleflow_pl.tasks.schedule import TaskSchedule

    changes = rate is not None or bool(excluded)
    with locked_for(path, RunFolder.of(path).root) if changes else nullcontext():
        checkpoint = read_checkpoint(path)
        before, schedule = (
            TaskSchedule.from_state(deepcopy(checkpoint[STATE_KEY]["tasks"])) for _ in range(2)
        )
        schedule.exclude(excluded, product)
        if rate is not None:
            schedule.set_false_alarm_rate(rate, product)
        if changes:
            checkpoint[STATE_KEY]["tasks"] = schedule.state()
            save_changed(checkpoint, path)
    return before, schedule


def describe_excluded(before: TaskSchedule, now: TaskSchedule) -> str:
    """Return in words how many images of each kind were excluded."""
    (old, old_training), (new, new_training) = map(count_images, (before, now))
    training = old_training - new_training
    kept = " (the expert has still learned from them)" if training else ""
    return f"excluded: {old - new} calibration images, {training} training images{kept}"


def count_images(schedule: TaskSchedule) -> tuple[int, int]:
    """Return the numbers of calibration images and of training images with a score."""
    known = [task.calibration for task in schedule.tasks if task.calibration is not None]
    return sum(len(one.scores) for one in known), sum(len(one.training.scores) for one in known)


def report_shared_rate(schedule: TaskSchedule, product: str) -> None:
    """Log that products which were learned at once have one rate."""
    products = schedule.tasks[schedule.find(product)].products
    if len(products) > 1:
        logger.info(
            f"{', '.join(products)} were learned at once and share one expert: the rate of all of "
            "them is changed"
        )


def threshold_table(schedule: TaskSchedule, before: TaskSchedule | None = None) -> Any:
    """Return a table of each product's threshold and its confidence interval.

    Args:
        schedule: The tasks.
        before: The same tasks before the change, to show both thresholds.
    """
    from moleflow_pl._internal.console import NamesTable

    table = NamesTable(title="false alarms on good images", caption=CAPTION)
    table.add_column(COLUMNS[0], overflow="fold")
    for column in COLUMNS[1:] if before is None else (COLUMNS[1], "before", *COLUMNS[2:]):
        table.add_column(column, justify="right")
    for index in schedule.learned:
        rows = list(table_rows(schedule.tasks[index]))
        if before is not None:
            earlier = table_rows(before.tasks[index])
            rows = [[*row[:2], old[2], *row[2:]] for row, old in zip(rows, earlier, strict=True)]
        for row in rows:
            table.add_row(*row)
    return table


def table_rows(task: Task) -> Iterator[list[Any]]:
    """Yield a task's row and, if it is a group, one for each of its products."""
    calibration = task.calibration
    if calibration is None or not calibration.scores:
        yield [task.name, "0", "-", "no calibration images"]
        return
    # the group's own threshold applies to images of an unspecified product
    products = dict.fromkeys(calibration.products) if len(task.products) > 1 else {}
    for name in [task.name, *products]:
        yield [name, *threshold_row(calibration.for_product(name).score_threshold)]


def threshold_row(threshold: Threshold) -> list[Any]:
    """Return the cells of a threshold's row, without the product's name.

    A narrow column wraps a cell between its words, of which none is longer than `extrapolated`.
    """
    return [
        str(threshold.images),
        f"{threshold.value:.4g} at {threshold.rate:.3%}",
        [f"{threshold.low:.3%} to {threshold.high:.3%}", *notes(threshold)],
    ]


def notes(threshold: Threshold) -> list[str]:
    """Return a caveat about a threshold; nothing without one."""
    if threshold.suspects:
        return [f"{threshold.suspects} suspects left out"]
    return ["extrapolated"] if threshold.extrapolated else []
