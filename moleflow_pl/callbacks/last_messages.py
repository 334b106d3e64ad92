"""The last lines of a command: results, where they are, and the next commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moleflow_pl._internal.console import NamesTable
from moleflow_pl._internal.result_names import BOXES_FILE, HEATMAPS, MAPS, MASKS, TABLE_FILE
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.metrics.decisions import ANOMALOUS, NORMAL, UNKNOWN
from moleflow_pl.report.good_images import next_commands
from moleflow_pl.report.not_evaluated import in_lines
from moleflow_pl.tasks.schedule import Task

LABELS = (NORMAL, ANOMALOUS, UNKNOWN)
NO_LABEL = "no label"  # for a product without a threshold


def fit_ending(
    run: RunFolder, left_out: Mapping[str, str], commands: Mapping[str, str]
) -> list[str]:
    """Lines below the tables of a fit.

    Args:
        run: The run folder.
        left_out: See `not_evaluated`.
        commands: Next commands, by purpose.
    """
    return [*in_lines(left_out), f"report: {run.page}", *next_lines(commands)]


def update_ending(run: RunFolder, version: RunFolder, tasks: Sequence[Task]) -> list[str]:
    """Lines below the table of an update.

    Args:
        run: The run.
        version: The folder in which the new version was learned.
        tasks: The learned tasks of the run, the new version last.
    """
    tested = tasks[-1].oracle_scores is not None
    commands = next_commands(run, tasks, tested)
    return [f"report of the new version: {version.page}", *next_lines(commands)]


def next_lines(commands: Mapping[str, str]) -> list[str]:
    """Lines that name the next commands, by purpose."""
    return [f"next, to {purpose}: {command}" for purpose, command in commands.items()]


def decisions_table(counts: Mapping[tuple[str, str], int]) -> NamesTable:
    """A table of the number of images of each product, by label.

    Args:
        counts: Counts by product and label; the label is empty without a threshold.
    """
    named = {(product, label or NO_LABEL): count for (product, label), count in counts.items()}
    labels = [*LABELS, *({NO_LABEL} & {label for _, label in named})]
    table = NamesTable(title="decisions")
    table.add_column("product")
    for label in labels:
        table.add_column(label, justify="right")
    products = sorted({product for product, _ in named})
    rows = {product: [named.get((product, label), 0) for label in labels] for product in products}
    for product, row in rows.items():
        table.add_row(product, *map(str, row))
    if len(products) > 1:
        table.add_section()
        table.add_row("all", *(str(sum(column)) for column in zip(*rows.values(), strict=True)))
    return table


def places(folder: Path) -> list[str]:
    """Lines that name the outputs of `predict` in its folder."""
    parts = {
        "predictions": TABLE_FILE,
        "boxes": BOXES_FILE,
        "heatmaps": HEATMAPS,
        "raw maps": MAPS,
        "masks": MASKS,
    }
    return [f"{what}: {folder / name}" for what, name in parts.items() if (folder / name).exists()]
