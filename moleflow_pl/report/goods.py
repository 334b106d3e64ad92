"""What can be said without test images: thresholds, routing and change of the good images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from moleflow_pl._internal.console import NamesTable
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.metrics.goods import GoodImages
from moleflow_pl.report.decisions import format_rate
from moleflow_pl.tasks.schedule import Task
from moleflow_pl.tasks.thresholds import images_for

CHANGED = 0.01  # level below which the halves of a product's images differ
GOODS_COLUMNS = (
    "training +\ncalibration\nimages", "scores of\nthe latter", "threshold,\nfalse alarms",
    "routed to\nits task", "first and\nlast half",
)  # fmt: skip
CAPTION = (
    "The 99 % interval is that of the true false-alarm rate. There are no test images: how many "
    "defects these thresholds find is not known."
)


def summarise_calibration(
    tasks: Sequence[Task], goods: Sequence[GoodImages | None]
) -> list[dict[str, Any]]:
    """The entry `calibration` of `summary.json`: each task's threshold and good images.

    Args:
        tasks: The learned tasks.
        goods: What is known of those without test images, None for the others.
    """
    return [
        {"task": task.name, "threshold": threshold_entry(task), "goods": found}
        for task, found in zip(tasks, [*goods, *[None] * len(tasks)], strict=False)
    ]


def threshold_entry(task: Task) -> dict[str, Any] | None:
    """A task's threshold and what is behind it; None without calibration images."""
    if task.calibration is None:
        return None
    found = task.calibration.score_threshold
    ordered = sorted(task.calibration.scores)
    return {
        "value": found.value,
        "false_alarm_rate": found.rate,
        "low": found.low,
        "high": found.high,
        "extrapolated": found.extrapolated,
        "images": found.images,
        "images_needed": images_for(found.rate),
        "median_score": task.calibration.limits().median_score,
        "highest_score": ordered[-1],
        "suspects": [one._asdict() for one in task.calibration.suspects],
    }


def is_tested(summary: Mapping[str, Any]) -> bool:
    """Whether any test image was scored, now or after an earlier task."""
    matrices = [metric["matrix"] for metric in summary["metrics"].values()]
    values = [value for matrix in matrices for row in matrix for value in row]
    return bool(summary["decisions"]["products"]) or any(value is not None for value in values)


def next_commands(run: RunFolder) -> dict[str, str]:
    """Commands for a model that was learned from good images alone, by what they are for."""
    folder = shlex.quote(str(run.root))
    return {
        "decide about new images": f"moleflow predict {folder} IMAGES",
        "find defects at another rate": f"moleflow calibrate {folder} --false-alarm-rate 0.05",
        "measure with defective images": f"moleflow test {folder} --data.layout mvtec "
        "--data.root DATA",
    }


def goods_table(summary: Mapping[str, Any]) -> NamesTable | None:
    """The table on the screen: a row for each task without test images; None if all have some."""
    entries = [one for one in summary["calibration"] if one["goods"] is not None]
    if not entries:
        return None
    table = NamesTable(
        title="good images alone", caption=CAPTION, caption_justify="left", show_lines=True
    )
    table.add_column("task", overflow="fold")
    for column in GOODS_COLUMNS:
        table.add_column(column, no_wrap=True)
    for one in entries:
        goods = one["goods"]
        table.add_row(
            one["task"],
            [f"{goods['training']} +", str(goods["calibration"])],
            *threshold_in_lines(one["threshold"]),
            routed_in_lines(summary, one),
            halves_in_lines(goods["halves"]),
        )
    return table


def threshold_in_lines(threshold: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    """The scores behind a threshold; itself, the rate asked for and the true one's interval."""
    if threshold is None:
        return ["none"], ["none"]
    scores = [f"median {threshold['median_score']:.4g}", f"most   {threshold['highest_score']:.4g}"]
    interval = f"{100 * threshold['low']:.3g}-{100 * threshold['high']:.3g} %"
    rate = f"rate {format_rate(threshold['false_alarm_rate'])}"
    return scores, [f"> {threshold['value']:.4g}", rate, interval]


def routed_in_lines(summary: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """How many calibration images the router sends to their own task, and where it sends others.

    Example:
        >>> entry = {"task": "b", "goods": {"routed": [1, 8]}}
        >>> routed_in_lines({"tasks": ["a", "b"]}, entry)
        ['8 of 9', '1 to a']
    """
    routed = dict(zip(summary["tasks"], entry["goods"]["routed"], strict=True))
    count, of = routed.pop(entry["task"]), sum(entry["goods"]["routed"])
    lines = [f"{other} to {name}" for name, other in routed.items() if other]
    return [f"{count} of {of}", *lines] if of else ["none", "to route"]


def halves_in_lines(halves: Mapping[str, Any] | None) -> list[str]:
    """Whether a product's images changed from the first half to the second."""
    if halves is None:
        return ["too few"]
    return ["differ" if halves["p"] <= CHANGED else "alike", f"p = {halves['p']:.2g}"]
