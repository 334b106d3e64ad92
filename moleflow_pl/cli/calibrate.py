"""`moleflow calibrate`: show or change the thresholds of a trained model, without training."""

from __future__ import annotations

import argparse
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

EXAMPLE = "example: moleflow calibrate runs/demo --false-alarm-rate 0.001"
OPTIONS: dict[str, dict[str, Any]] = {
    CHECKPOINT: SETTINGS,
    "--false-alarm-rate": {
        "type": float,
        "metavar": "RATE",
        "help": "share of good images that may be called defective, such as 0.001",
    },
    "--product": {"metavar": "NAME", "help": "change only this product; default: all"},
}
COLUMNS = ("product", "calibration images", "threshold", "target rate", "99 % interval", "")
CAPTION = (
    "The 99 % confidence interval is that of the true rate. A target below 1 / (images + 1) "
    "extrapolates the tail of the scores: rely on the interval."
)


def main(args: Sequence[str]) -> None:
    """Show each product's threshold, or set another false-alarm rate, without training."""
    options = make_parser().parse_args(args)
    # after parsing: torch takes seconds to import
    from moleflow_pl._internal.console import print_table

    if options.backbone_weights is not None:
        moved_weights.save_place(options.ckpt_path, options.backbone_weights)
    before, now = calibrate(options.ckpt_path, options.false_alarm_rate, options.product)
    print_table(threshold_table(now, None if options.false_alarm_rate is None else before))


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


def calibrate(
    path: Path, rate: float | None, product: str | None
) -> tuple[TaskSchedule, TaskSchedule]:
    """Set a false-alarm rate in a checkpoint, unless `rate` is None.

    Returns:
        The tasks of the checkpoint, with their thresholds before and now.
    """
    from moleflow_pl.checkpoints.io import read_checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.checkpoints.run_lock import locked_for
    from moleflow_pl.checkpoints.schema import STATE_KEY
    from moleflow_pl.tasks.schedule import TaskSchedule

    with nullcontext() if rate is None else locked_for(path, RunFolder.of(path).root):
        checkpoint = read_checkpoint(path)
        before, schedule = (
            TaskSchedule.from_state(deepcopy(checkpoint[STATE_KEY]["tasks"])) for _ in range(2)
        )
        if rate is not None:
            schedule.set_false_alarm_rate(rate, product)
            checkpoint[STATE_KEY]["tasks"] = schedule.state()
            save_changed(checkpoint, path)
    return before, schedule


def threshold_table(schedule: TaskSchedule, before: TaskSchedule | None = None) -> Any:
    """Return a table of each product's threshold and its confidence interval.

    Args:
        schedule: The tasks.
        before: The same tasks before their rates were changed; their thresholds are shown too.
    """
    from moleflow_pl._internal.console import NamesTable

    table = NamesTable(title="false alarms on good images", caption=CAPTION)
    for column in COLUMNS if before is None else (*COLUMNS[:2], "before", *COLUMNS[2:]):
        left = column in ("product", "")
        table.add_column(column, justify="left" if left else "right", no_wrap=not column)
    for index in schedule.learned:
        rows = list(table_rows(schedule.tasks[index]))
        if before is not None:
            earlier = table_rows(before.tasks[index])
            rows = [
                [*row[:2], f"{old[2]} at {old[3]}", *row[2:]]
                for row, old in zip(rows, earlier, strict=True)
            ]
        for row in rows:
            table.add_row(*row)
    return table


def table_rows(task: Task) -> Iterator[list[str]]:
    """Yield a task's row and, if it is a group, one for each of its products."""
    calibration = task.calibration
    if calibration is None or not calibration.scores:
        yield [task.name, "0", "-", "-", "-", "no calibration images"]
        return
    # the group's own threshold is for images whose product is unknown
    products = dict.fromkeys(calibration.products) if len(task.products) > 1 else {}
    for name in [task.name, *products]:
        yield [name, *threshold_row(calibration.of(name).score_threshold)]


def threshold_row(threshold: Threshold) -> list[str]:
    """Return a threshold's cells of the table, the product's name left out."""
    return [
        str(threshold.images),
        f"{threshold.value:.4g}",
        f"{threshold.rate:.3%}",
        f"{threshold.low:.3%} to {threshold.high:.3%}",
        "extrapolated" if threshold.extrapolated else "",
    ]
