"""The tables of a comparison of runs on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moleflow_pl._internal.console import NamesTable
from moleflow_pl.report.decisions import CAPTION, SHARES, format_rate, in_lines
from moleflow_pl.report.summary import TABLE_METRICS


def comparison_tables(content: Mapping[str, Any], runs: Sequence[str]) -> list[NamesTable]:
    """The tables of metrics, decisions and thresholds; each only if there is something in it.

    Args:
        content: The result of `compared`.
        runs: Names of the runs.
    """
    tables = []
    if set(TABLE_METRICS) & set(content["measured"]):
        tables.append(metrics_table(content))
    if content["decisions"]:
        tables.append(decisions_table(content["decisions"], runs))
    if content["thresholds"]:
        tables.append(thresholds_table(content["thresholds"], runs))
    return tables


def metrics_table(content: Mapping[str, Any]) -> NamesTable:
    """Mean and standard deviation of each task's metrics over the runs."""
    table = NamesTable(title="mean and standard deviation over the runs, routed")
    table.add_column("task", overflow="fold")
    metrics = [metric for metric in TABLE_METRICS if metric in content["measured"]]
    for metric in metrics:
        table.add_column(TABLE_METRICS[metric], justify="right")
    for name, row in content["shown"].items():
        table.add_row(name, *[str(row[metric]["routed"]) for metric in metrics])
    return table


def decisions_table(
    decisions: Mapping[str, Mapping[int, Mapping[str, Any]]], runs: Sequence[str]
) -> NamesTable:
    """Decisions at each product's threshold, a row for each run."""
    table = NamesTable(
        title="decisions about the test images at each product's threshold",
        caption=CAPTION, caption_justify="left", show_lines=True,
    )  # fmt: skip
    table.add_column("product, run", overflow="fold")
    for name in SHARES.values():
        table.add_column("\n".join(name.split()), justify="right", no_wrap=True)
    for product, of_runs in decisions.items():
        for run, one in of_runs.items():
            first = [product, runs[run]]
            if one["threshold"] is not None:
                first += [
                    f"> {one['threshold']:.4g}",
                    f"rate {format_rate(one['false_alarm_rate'])}",
                ]
            table.add_row(first, *[in_lines(one[name]) for name in SHARES])
    return table


def thresholds_table(
    thresholds: Mapping[str, Sequence[Mapping[str, Any] | None]], runs: Sequence[str]
) -> NamesTable:
    """What each threshold rests on, a row for each run."""
    table = NamesTable(
        title="thresholds",
        caption="The 99 % confidence interval is that of the true false-alarm rate.",
        caption_justify="left",
    )
    for column in ("task", "run"):
        table.add_column(column, overflow="fold")
    for column in ("threshold", "target\nrate", "99 %\ninterval", "calibration\nimages"):
        table.add_column(column, justify="right")
    for task, of_runs in thresholds.items():
        for run, one in zip(runs, of_runs, strict=True):
            if one is not None:
                interval = f"{100 * one['low']:.3g}-{100 * one['high']:.3g} %"
                rate = format_rate(one["false_alarm_rate"])
                table.add_row(task, run, f"{one['value']:.4g}", rate, interval, str(one["images"]))
    return table
