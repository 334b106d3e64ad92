"""The table of `moleflow validate`: NLL and routing accuracy on calibration images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from moleflow_pl._internal.console import NamesTable
from moleflow_pl.tasks.schedule import TaskSchedule

CURVES = ("nll_per_dim", "routing_accuracy")


def validation_table(schedule: TaskSchedule, metrics: Mapping[str, Tensor]) -> NamesTable:
    """Build a table with a row for each validated task.

    Args:
        schedule: The tasks.
        metrics: What the Trainer logged.
    """
    table = NamesTable(title="calibration images")
    table.add_column("task")
    for title in ("NLL, nats per dimension", "routing accuracy"):
        table.add_column(title, justify="right")
    for task in schedule.tasks:
        values = [metrics.get(f"val/{task.name}/{curve}") for curve in CURVES]
        if any(value is not None for value in values):
            table.add_row(task.name, *("-" if v is None else f"{float(v):.3f}" for v in values))
    return table
