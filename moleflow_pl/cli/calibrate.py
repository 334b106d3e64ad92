"""`moleflow calibrate`: thresholds of a trained model, shown and changed without training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow_pl.tasks.calibration import Threshold
    from moleflow_pl.tasks.schedule import TaskSchedule

EXAMPLE = "example: moleflow calibrate --ckpt_path runs/demo/last.ckpt --false-alarm-rate 0.001"


def main(args: Sequence[str]) -> None:
    """Show each product's threshold, or move it to another false-alarm rate, without training."""
    parser = argparse.ArgumentParser(
        prog="moleflow calibrate", description=main.__doc__, epilog=EXAMPLE
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, help="the model's checkpoint")
    parser.add_argument(
        "--false-alarm-rate", type=float, help="share of good images that may be called defective"
    )
    parser.add_argument("--product", help="the one product to change; all by default")
    given = parser.parse_args(args)
    # torch is slow to import, and a wrong argument needs none
    from rich.console import Console

    from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
    from moleflow_pl.checkpoints.schema import STATE_KEY
    from moleflow_pl.tasks.schedule import TaskSchedule

    checkpoint = read_checkpoint(given.ckpt_path)
    schedule = TaskSchedule.from_state(checkpoint[STATE_KEY]["tasks"])
    if given.false_alarm_rate is not None:
        schedule.set_false_alarm_rate(given.false_alarm_rate, given.product)
        checkpoint[STATE_KEY]["tasks"] = schedule.state()
        write_checkpoint(checkpoint, given.ckpt_path)
    Console().print(threshold_table(schedule))


def threshold_table(schedule: TaskSchedule) -> Any:
    """Each product's threshold, what it was asked for, and what can be promised."""
    from rich.table import Table

    table = Table(
        title="false alarms among good images",
        caption="Promised: the 99 % interval of the true rate. A rate below 1 / (images + 1) is an "
        "extrapolation of the scores' tail, and only the interval is sure.",
    )
    for column in ("product", "held-out images", "threshold", "rate asked", "rate promised", ""):
        table.add_column(column, justify="left" if column in ("product", "") else "right")
    for index in schedule.learned:
        task = schedule.tasks[index]
        if task.calibration is None or not task.calibration.scores:
            table.add_row(task.name, "0", "-", "-", "-", "nothing was held out")
            continue
        # a group's threshold is for images of which it is not told which product they show
        parts = dict.fromkeys(task.calibration.products)
        for name in [task.name, *(parts if len(task.products) > 1 else ())]:
            table.add_row(name, *threshold_row(task.calibration.of(name).score_threshold))
    return table


def threshold_row(found: Threshold) -> list[str]:
    """A threshold as the table shows it."""
    return [
        str(found.images),
        f"{found.value:.4g}",
        f"{found.rate:.3%}",
        f"{found.low:.3%} to {found.high:.3%}",
        "extrapolated" if found.extrapolated else "",
    ]
