"""Comparison of several runs: seeds, task orders, ablations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from moleflow_pl._internal.console import NamesTable
from moleflow_pl._internal.files import read_json, require_folder, write_text
from moleflow_pl._internal.printable import printable
from moleflow_pl._internal.schema import validate
from moleflow_pl._internal.upgrade import Kind, upgrade
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.errors import CheckpointError, DataError
from moleflow_pl.metrics.decisions import Shares
from moleflow_pl.metrics.image import mean_of
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_scores import ROUTING_MODES
from moleflow_pl.report.comparison_tables import comparison_tables
from moleflow_pl.report.decisions import (
    ALL,
    SHARES,
    DecidedProduct,
    decisions_of_runs,
    require_decisions,
    spread_out,
)
from moleflow_pl.report.good_images import CalibratedTask, ThresholdEntry, thresholds_of_runs
from moleflow_pl.report.page import TITLES, environment
from moleflow_pl.report.summary import write_rows

MEAN = "mean over tasks"
THRESHOLD_COLUMNS = {
    "threshold": "value",
    "false_alarm_rate": "false_alarm_rate",
    "false_alarm_rate_low": "low",
    "false_alarm_rate_high": "high",
    "calibration_images": "images",
}
TEX_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    # at the start of a row, these would belong to the \\ before it: \\[length] and \\*
    "[": "{[}", "*": "{*}",
}  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """One number over several runs.

    Attributes:
        values: One value for each run; None if a run does not have it.

    Example:
        >>> str(Spread([0.5, 0.7])), str(Spread([None]))
        ('0.600 ± 0.141', '-')
    """

    values: Sequence[float | None]

    @property
    def present(self) -> list[float]:
        """The values that are not None."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """Mean of the values; None if there are none."""
        return mean_of(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of the values; None for fewer than two."""
        return stdev(self.present) if len(self.present) > 1 else None

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        spread = "" if self.deviation is None else f" ± {self.deviation:.3f}"
        return f"{self.mean:.3f}{spread}"


def read_summary(run: Path) -> dict[str, Any]:
    """Read the `summary.json` of a run.

    Raises:
        DataError: the run has no summary, or the summary has another schema.
    """
    path, remedy = RunFolder(run).summary, "run `moleflow test` on its checkpoint"
    if not path.is_file():
        raise DataError(f"{run} has no report/summary.json: {remedy}")
    try:
        summary = read_json(path)
    except DataError as error:
        raise DataError(f"{error}: {remedy}") from error
    try:
        summary = upgrade(Kind.SUMMARY, summary, str(path))
    except CheckpointError as error:
        raise DataError(f"{error}, or {remedy}") from error
    try:
        validate_summary(summary)
    except (CheckpointError, KeyError) as error:
        raise DataError(f"{path} is damaged: {error}; {remedy}") from error
    return summary


def validate_summary(summary: Mapping[str, Any]) -> None:
    """Check the parts of a summary that a comparison reads.

    Raises:
        CheckpointError: a part has the wrong type.
        KeyError: a part is missing.
    """
    validate(summary["tasks"], list[str], "tasks")
    validate(summary["settings"], dict, "settings")
    validate(summary["routing"], dict, "routing")
    for key in ("accuracy", "accuracy_on_defects"):
        validate(summary["routing"][key], float | None, f"routing.{key}")
    validate(summary["decisions"], dict, "decisions")
    validate(summary["decisions"]["products"], list[DecidedProduct], "decisions.products")
    validate(summary["decisions"]["all"], Shares, "decisions.all")
    require_decisions(summary["decisions"]["products"], summary["decisions"]["all"])
    validate(summary["calibration"], list[CalibratedTask], "calibration")
    validate(summary["metrics"], dict[str, dict], "metrics")
    for metric in METRICS:
        for mode in ROUTING_MODES:
            values = summary["metrics"][metric][mode]
            validate(values, list[float | None], f"metrics.{metric}.{mode}")
            if len(values) != len(summary["tasks"]):
                raise CheckpointError(
                    f"metrics.{metric}.{mode} does not have one value for each task"
                )
    for key in ("forgetting", "oracle_forgetting", "backward_transfer", "oracle_backward_transfer"):
        validate(summary["metrics"]["image_auroc"][key], float | None, f"image_auroc.{key}")


def tabulate(summaries: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Spread]]]:
    """Spreads over runs, by task, metric and routing mode; tasks are matched by name."""
    names = list(dict.fromkeys(name for summary in summaries for name in summary["tasks"]))

    def value(summary: dict[str, Any], name: str, metric: str, mode: str) -> float | None:
        if name not in summary["tasks"]:
            return None
        return summary["metrics"][metric][mode][summary["tasks"].index(name)]

    table: dict[str, dict[str, dict[str, Spread]]] = {
        name: {
            metric: {
                mode: Spread([value(s, name, metric, mode) for s in summaries])
                for mode in ROUTING_MODES
            }
            for metric in METRICS
        }
        for name in names
    }
    table[MEAN] = {
        metric: {
            mode: Spread([mean_of(s["metrics"][metric][mode]) for s in summaries])
            for mode in ROUTING_MODES
        }
        for metric in METRICS
    }
    return table


def overall(summaries: Sequence[dict[str, Any]]) -> dict[str, dict[str, Spread]]:
    """Spreads over runs of the numbers for all tasks together, by title and routing mode."""
    image = [summary["metrics"]["image_auroc"] for summary in summaries]
    routing = [summary["routing"] for summary in summaries]
    keys = {"routed": "", "oracle": "oracle_"}

    def by_mode(name: str) -> dict[str, Spread]:
        return {mode: Spread([m[f"{key}{name}"] for m in image]) for mode, key in keys.items()}

    return {
        "routing accuracy": {"routed": Spread([r["accuracy"] for r in routing])},
        "routing accuracy on defective images": {
            "routed": Spread([r["accuracy_on_defects"] for r in routing])
        },
        "forgetting, image AUROC": by_mode("forgetting"),
        "backward transfer, image AUROC": by_mode("backward_transfer"),
    }


def differing_settings(summaries: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Evaluation settings that differ between runs, with the value of each run.

    Example:
        >>> runs = [{"settings": {"router": "pooled"}}, {"settings": {"router": "none"}}]
        >>> differing_settings(runs)
        {'router': ['pooled', 'none']}
    """
    settings = [summary.get("settings", {}) for summary in summaries]
    names = dict.fromkeys(name for of_run in settings for name in of_run)
    columns = {name: [of_run.get(name) for of_run in settings] for name in names}
    return {name: values for name, values in columns.items() if values != values[:1] * len(values)}


def share_spreads(runs: Sequence[Mapping[str, Any] | None]) -> dict[str, Spread]:
    """Spreads over runs of a product's shares, their counts and intervals, by column."""
    spreads: dict[str, Spread] = {}
    for name in SHARES:
        columns = [spread_out(name, None if run is None else run[name]) for run in runs]
        spreads |= {key: Spread([row[key] for row in columns]) for key in spread_out(name, None)}
    return spreads


def threshold_spreads(runs: Sequence[ThresholdEntry | None]) -> dict[str, Spread]:
    """Spreads over runs of a task's threshold and what it rests on, by column."""
    limits: list[Mapping[str, Any]] = [run or {} for run in runs]
    return {
        column: Spread([limit.get(key) for limit in limits])
        for column, key in THRESHOLD_COLUMNS.items()
    }


def tex(text: object) -> str:
    r"""Escape text for LaTeX.

    Example:
        >>> print(tex("metal_nut"))
        metal\_nut
    """
    escaped = "".join(TEX_ESCAPES.get(character, character) for character in printable(text))
    return escaped.replace("±", r"$\pm$")


def compare(runs: Sequence[Path], folder: Path) -> tuple[list[NamesTable], list[Path]]:
    """Write `comparison.html`, `.tex` and `.csv` of several runs into a folder.

    Returns:
        The tables for the screen, and the three files.

    Raises:
        DataError: a run has no report of this schema.
        OutputError: the files cannot be written.
    """
    require_folder(folder)
    content = compared([read_summary(run) for run in runs])
    templates = environment()
    templates.filters["tex"] = tex
    files = [folder / f"comparison.{kind}" for kind in ("html", "tex", "csv")]
    names = [str(run) for run in runs]
    for path in files[:2]:
        write_text(path, templates.get_template(path.name).render(content, runs=names))
    columns = ["task", "metric", "routing_mode", "mean", "deviation", "runs", *names]
    write_rows(files[2], columns, list(csv_rows(content)))
    return comparison_tables(content, names), files


def compared(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a comparison says, in whatever form."""
    table, decisions = tabulate(summaries), decisions_of_runs(summaries)
    measured = [m for m in METRICS if any(row[m]["routed"].present for row in table.values())]
    shown = [name for name, row in table.items() if any(row[m]["routed"].present for m in METRICS)]
    return {
        "orders": [" → ".join(summary["tasks"]) for summary in summaries],
        "table": table,
        "overall": overall(summaries),
        "decisions": decided(decisions),
        "shares": {product: share_spreads(of_runs) for product, of_runs in decisions.items()},
        "thresholds": thresholds_of_runs(summaries),
        "differing_settings": differing_settings(summaries),
        "measured": measured,
        "shown": {name: table[name] for name in shown},
        "titles": TITLES,
    }


def decided(
    decisions: Mapping[str, Sequence[Mapping[str, Any] | None]],
) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Decisions at a threshold, by product or for all, and by the number of the run."""

    def of_runs(name: str) -> dict[int, Mapping[str, Any]]:
        found = {i: one for i, one in enumerate(decisions[name]) if one is not None}
        return {i: one for i, one in found.items() if name == ALL or one["threshold"] is not None}

    by_run = {name: of_runs(name) for name in decisions}
    return {name: runs for name, runs in by_run.items() if runs}


def csv_rows(content: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Rows of `comparison.csv`."""
    table = content["table"]
    for name, metrics in {**table, MEAN: table[MEAN] | content["overall"]}.items():
        for metric, modes in metrics.items():
            for mode, spread in modes.items():
                yield csv_row(name, metric, mode, spread)
    limits = {name: threshold_spreads(runs) for name, runs in content["thresholds"].items()}
    for part in (limits, content["shares"]):
        for name, columns in part.items():
            for column, spread in columns.items():
                yield csv_row(name, column, "routed", spread)


def csv_row(name: str, metric: str, mode: str, spread: Spread) -> list[Any]:
    """A row of `comparison.csv`."""
    count = len(spread.present)
    return [name, metric, mode, spread.mean, spread.deviation, count, *spread.values]
