"""Report without test images: thresholds, and routing and change of the good images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from moleflow_pl._internal.console import NamesTable
from moleflow_pl._internal.printable import quoted
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.metrics.good_images import GoodImages
from moleflow_pl.report.decisions import format_rate
from moleflow_pl.tasks.schedule import Task
from moleflow_pl.tasks.thresholds import images_for

CHANGED = 0.01  # significance level at which the halves of a product's images differ
COLUMNS = (
    "training +\ncalibration\nimages", "calibration\nscores", "threshold,\nfalse alarms",
    "routed to\nits task", "first and\nlast half",
)  # fmt: skip
CAPTION = (
    "The 99 % confidence interval is that of the true false-alarm rate. Without test images it is "
    "unknown how many defects these thresholds find."
)


class SuspectEntry(TypedDict):
    """A good image that looks defective."""

    image: str
    score: float


class ThresholdEntry(TypedDict):
    """A task's threshold in `summary.json`; `low` and `high` bound the true false-alarm rate."""

    value: float
    false_alarm_rate: float
    low: float
    high: float
    extrapolated: bool
    images: int
    images_needed: int
    median_score: float
    highest_score: float
    suspects: list[SuspectEntry]


class CalibratedTask(TypedDict):
    """An entry of `calibration` in `summary.json`."""

    task: str
    threshold: ThresholdEntry | None
    good_images: GoodImages | None


def summarise_calibration(
    tasks: Sequence[Task], good_images: Sequence[GoodImages | None]
) -> list[CalibratedTask]:
    """The entry `calibration` of `summary.json`: each task's threshold and good images.

    Args:
        tasks: The learned tasks.
        good_images: Statistics of tasks without test images; None for the others.
    """
    return [
        {"task": task.name, "threshold": threshold_entry(task), "good_images": statistics}
        for task, statistics in zip(tasks, [*good_images, *[None] * len(tasks)], strict=False)
    ]


def threshold_entry(task: Task) -> ThresholdEntry | None:
    """A task's threshold with its statistics; None without calibration images."""
    if task.calibration is None:
        return None
    threshold = task.calibration.score_threshold
    ordered = sorted(task.calibration.scores)
    return {
        "value": threshold.value,
        "false_alarm_rate": threshold.rate,
        "low": threshold.low,
        "high": threshold.high,
        "extrapolated": threshold.extrapolated,
        "images": threshold.images,
        "images_needed": images_for(threshold.rate),
        "median_score": task.calibration.limits().median_score,
        "highest_score": ordered[-1],
        "suspects": [
            {"image": suspect.image, "score": suspect.score}
            for suspect in task.calibration.suspects
        ],
    }


def thresholds_of_runs(
    summaries: Sequence[Mapping[str, Any]],
) -> dict[str, list[ThresholdEntry | None]]:
    """The thresholds of each run, by task; None for a run that has none for it."""
    of_runs = [{e["task"]: e["threshold"] for e in s["calibration"]} for s in summaries]
    names = dict.fromkeys(name for of_run in of_runs for name in of_run)
    thresholds = {name: [of_run.get(name) for of_run in of_runs] for name in names}
    return {name: values for name, values in thresholds.items() if any(values)}


def is_tested(summary: Mapping[str, Any]) -> bool:
    """Whether the last evaluation had test images."""
    return any(map(any, summary["routing"]["confusion"]))


def next_commands(run: RunFolder, tasks: Sequence[Task], tested: bool = False) -> dict[str, str]:
    """Next commands for a model, by purpose.

    Args:
        run: The run; of an update, the run that it changes is meant.
        tasks: Its learned tasks.
        tested: Whether it was tested, or learned from good images alone.
    """
    folder = quoted(str(run.updated.root))
    commands, calibrate = first_commands(run, tasks), f"moleflow calibrate {folder}"
    if tested:
        if any(task.calibration is not None for task in tasks):
            commands["see or change the thresholds"] = calibrate
        return {**commands, "write one file for the line": f"moleflow export {folder}"}
    if are_calibrated(tasks):
        commands["find defects at another rate"] = f"{calibrate} --false-alarm-rate 0.05"
    test = f"moleflow test {folder} --data.layout mvtec --data.root DATA"
    return {**commands, "measure with defective images": test}


def first_commands(run: RunFolder, tasks: Sequence[Task]) -> dict[str, str]:
    """Next commands for any model, by purpose; without a threshold there are no decisions."""
    folder = quoted(str(run.updated.root))
    predict = f"moleflow predict {folder} IMAGES"
    if are_calibrated(tasks):
        return {"decide about new images": predict}
    learn = f"moleflow experts update {folder} PRODUCT --data.val_fraction 0.1"
    return {"score new images": predict, "get a threshold for a product without one": learn}


def are_calibrated(tasks: Sequence[Task]) -> bool:
    """Whether each task has a threshold; only then can one command set all their rates."""
    return all(task.calibration is not None for task in tasks if not task.replaced)


def good_images_table(summary: Mapping[str, Any]) -> NamesTable | None:
    """The table on the screen: a row for each task without test images; None without any."""
    entries = [entry for entry in summary["calibration"] if entry["good_images"] is not None]
    if not entries:
        return None
    limited = any(entry["threshold"] is not None for entry in entries)
    table = NamesTable(
        title="good images alone",
        caption=CAPTION if limited else None,
        caption_justify="left",
        show_lines=True,
    )
    table.add_column("task", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for entry in entries:
        good_images = entry["good_images"]
        table.add_row(
            entry["task"],
            [f"{good_images['training']} +", str(good_images["calibration"])],
            *threshold_in_lines(entry["threshold"]),
            routed_in_lines(summary, entry),
            halves_in_lines(good_images["halves"]),
        )
    return table


def threshold_in_lines(threshold: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    """Two cells: the calibration scores; the threshold, its target rate and its interval."""
    if threshold is None:
        return ["none"], ["none"]
    scores = [f"median {threshold['median_score']:.4g}", f"most   {threshold['highest_score']:.4g}"]
    interval = f"{100 * threshold['low']:.3g}-{100 * threshold['high']:.3g} %"
    rate = f"rate {format_rate(threshold['false_alarm_rate'])}"
    return scores, [f"> {threshold['value']:.4g}", rate, interval]


def routed_in_lines(summary: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """How many calibration images were routed to their own task, and where the others went.

    Example:
        >>> entry = {"task": "b", "good_images": {"routed": [1, 8]}}
        >>> routed_in_lines({"tasks": ["a", "b"]}, entry)
        ['8 of 9', '1 to a']
    """
    routed = dict(zip(summary["tasks"], entry["good_images"]["routed"], strict=True))
    count, of = routed.pop(entry["task"]), sum(entry["good_images"]["routed"])
    lines = [f"{other} to {name}" for name, other in routed.items() if other]
    return [f"{count} of {of}", *lines] if of else ["none", "to route"]


def halves_in_lines(halves: Mapping[str, Any] | None) -> list[str]:
    """Whether a product's images changed from the first half to the second."""
    if halves is None:
        return ["too few"]
    return ["differ" if halves["p"] <= CHANGED else "alike", f"p = {halves['p']:.2g}"]
