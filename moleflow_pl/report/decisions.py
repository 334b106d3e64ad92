"""Decisions at each product's threshold, for the summary, the tables and the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from rich.text import Text

from moleflow_pl._internal.console import NamesTable
from moleflow_pl._internal.printable import printable
from moleflow_pl.errors import CheckpointError
from moleflow_pl.metrics.decisions import (
    CONFIDENCE,
    ProductDecisions,
    Share,
    Shares,
    share,
    shares_of,
)
from moleflow_pl.tasks.thresholds import LOWEST_RATE

SHARES = {
    "false_alarms": "false alarms",
    "missed": "missed defects",
    "recall": "recall",
    "precision": "precision",
    "unknown": "unknown product",
}
COUNTS = (
    "good", "defective", "false_alarms", "found", "missed", "unknown_good", "unknown_defective",
)  # fmt: skip
ALL = "all products"
CAPTION = (
    "Shares of the images concerned, with the 95 % Wilson interval. A defective image that is "
    "labelled an unknown product counts as neither found nor missed."
)


class Target(TypedDict):
    """The cost of a target recall: the lowest false-alarm rate to set, and its false alarms."""

    recall: float
    false_alarm_rate: float | None
    false_alarms: Share | None


class DecidedProduct(TypedDict):
    """An entry of `decisions.products` in `summary.json`, with all of `Shares`."""

    task: str
    product: str
    threshold: float | None
    false_alarm_rate: float | None
    calibration_images: int | None
    good: int
    defective: int
    false_alarms: Share
    missed: Share
    recall: Share
    precision: Share
    unknown: Share
    unknown_good: Share
    unknown_defective: Share
    target: Target


def summarise_decisions(
    names: Sequence[str], evaluations: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any]:
    """The entry `decisions` of `summary.json`.

    Args:
        names: Names of the tasks.
        evaluations: After each task, see `moleflow_pl.metrics.task_matrix.matrix_row`.

    Returns:
        `confidence`; `products`, a list with one entry for each tested product; `all`, their
        shares together; `matrix`, for each share a matrix of task j (column) after task i (row).
    """
    entries = [
        (task, product, counts)
        for task, of_task in zip(names, (evaluations[-1] or {})["decisions"], strict=True)
        for product, counts in (of_task or {}).items()
    ]
    rows = [share_row(len(names), evaluation) for evaluation in evaluations]
    return {
        "confidence": CONFIDENCE,
        "products": [product_entry(task, product, counts) for task, product, counts in entries],
        "all": shares_of(total(counts for *_, counts in entries)),
        "matrix": {name: [[s and s[name] for s in row] for row in rows] for name in SHARES},
    }


def share_row(tasks: int, evaluation: Mapping[str, Any] | None) -> list[Any]:
    """The shares of each task in one evaluation; None for a task that was not tested."""
    of_tasks = [] if evaluation is None else evaluation["decisions"]
    shares = [shares_of(total(products.values())) if products else None for products in of_tasks]
    return [*shares, *[None] * (tasks - len(shares))]


def product_entry(task: str, product: str, counts: ProductDecisions) -> DecidedProduct:
    """The numbers of one product: counts, their shares, and the rate of the target recall."""
    alarms = counts["target_false_alarms"]
    return {
        "task": task,
        "product": product,
        "threshold": counts["threshold"],
        "false_alarm_rate": counts["false_alarm_rate"],
        "calibration_images": counts["calibration_images"],
        "good": counts["good"],
        "defective": counts["defective"],
        **shares_of(counts),
        "unknown_good": share(counts["unknown_good"], counts["good"]),
        "unknown_defective": share(counts["unknown_defective"], counts["defective"]),
        "target": {
            "recall": counts["target_recall"],
            "false_alarm_rate": counts["target_rate"],
            "false_alarms": None if alarms is None else share(alarms, counts["good"]),
        },
    }


def total(parts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Sums of the counts of several products."""
    chosen = list(parts)
    return {key: sum(part[key] for part in chosen) for key in COUNTS}


def spread_out(name: str, share: Share | None) -> dict[str, Any]:
    """A share as columns of a table: the share, its interval and its counts.

    Example:
        >>> spread_out("recall", None)["recall_low"] is None
        True
    """
    part: Mapping[str, Any] = share or {}
    keys = {"share": name} | {key: f"{name}_{key}" for key in ("low", "high", "count", "of")}
    return {column: part.get(key) for key, column in keys.items()}


def matrix_rows(summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Rows of `matrix.csv`: each task's threshold and target rate now, and after each task shares.

    Of each share there are its interval and its counts too.
    """
    limits = [entry["threshold"] or {} for entry in summary["calibration"]]
    for column, key in (("threshold", "value"), ("false_alarm_rate", "false_alarm_rate")):
        yield [column, "routed", summary["tasks"][-1], *[limit.get(key) for limit in limits]]
    for name, matrix in summary["decisions"]["matrix"].items():
        for column in spread_out(name, None):
            for after, row in zip(summary["tasks"], matrix, strict=True):
                yield [column, "routed", after, *[spread_out(name, s)[column] for s in row]]


def require_decisions(products: Sequence[DecidedProduct], together: Shares) -> None:
    """Check that numbers which depend on the same threshold are all given or all None.

    Args:
        products: The decisions about each product.
        together: The shares of all of them.

    Raises:
        CheckpointError: only some of them are None.
    """
    for name in SHARES:
        of_all: Any = together
        require_together(of_all[name], ("share", "low", "high"), f"decisions.all.{name}")
    for index, entry in enumerate(products):
        where = f"decisions.products[{index}]"
        require_together(entry, ("threshold", "false_alarm_rate", "calibration_images"), where)
        target = entry["target"]
        require_together(target, ("false_alarm_rate", "false_alarms"), f"{where}.target")
        shares: dict[str, Any] = {**entry, "target.false_alarms": target["false_alarms"]}
        for name in (*SHARES, "unknown_good", "unknown_defective", "target.false_alarms"):
            if shares[name] is not None:
                require_together(shares[name], ("share", "low", "high"), f"{where}.{name}")


def require_together(values: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Raise CheckpointError if some of the values are None and others are not."""
    missing = [name for name in names if values[name] is None]
    if missing and len(missing) < len(names):
        present = next(name for name in names if name not in missing)
        raise CheckpointError(
            f"{where}.{missing[0]}: expected a number, since {present} is one, found None"
        )


def decisions_of_runs(
    summaries: Sequence[Mapping[str, Any]],
) -> dict[str, list[Mapping[str, Any] | None]]:
    """The decisions of each run, by product and for all; None for a run that has none.

    Those about all products of a run have no threshold.
    """
    of_runs: list[dict[str, Mapping[str, Any]]] = []
    for summary in summaries:
        products = summary["decisions"]["products"]
        of_runs.append({entry["product"]: entry for entry in products})
    names = dict.fromkeys(name for of_run in of_runs for name in of_run)
    for summary, of_run in zip(summaries, of_runs, strict=True):
        if any(entry["threshold"] is not None for entry in of_run.values()):
            limit = {"threshold": None, "false_alarm_rate": None}
            of_run[ALL] = {**summary["decisions"]["all"], **limit}
    several = [ALL] if len(names) > 1 else []
    return {name: [of_run.get(name) for of_run in of_runs] for name in [*names, *several]}


def decision_table(summary: Mapping[str, Any]) -> NamesTable | None:
    """The table on the screen: a row for each tested product; None without thresholds."""
    decisions = summary["decisions"]
    decided = [p for p in decisions["products"] if p["threshold"] is not None]
    if not decided:
        return None
    title = "decisions about the test images at each product's threshold"
    table = NamesTable(
        title=title, caption=Text(caption(decided)), caption_justify="left", show_lines=True
    )
    table.add_column("product", overflow="fold")
    for name in SHARES.values():
        table.add_column("\n".join(name.split()), justify="right", no_wrap=True)
    for entry in decided:
        rate = f"rate {format_rate(entry['false_alarm_rate'])}"
        first = [entry["product"], f"> {entry['threshold']:.4g}", rate]
        table.add_row(first, *[in_lines(entry[name]) for name in SHARES])
    if len(decided) > 1:
        table.add_row("all", *[in_lines(decisions["all"][name]) for name in SHARES])
    return table


def caption(products: Sequence[Mapping[str, Any]]) -> str:
    """The caption of the table, with the cost of the target recall for each product."""
    sentences = {printable(entry["product"]): target_sentence(entry) for entry in products}
    targets = [f"{name}: {sentence}" for name, sentence in sentences.items() if sentence]
    return "\n".join([CAPTION, *targets])


def target_sentence(entry: Mapping[str, Any]) -> str:
    """The false-alarm rate that reaches the target recall, in words; empty without defects."""
    target = entry["target"]
    if not entry["defective"]:
        return ""
    if target["false_alarm_rate"] is None:
        return f"no false-alarm rate finds {format_rate(target['recall'])} of these defects"
    # lower rates were not tried
    lowest = "at most " if target["false_alarm_rate"] <= LOWEST_RATE else ""
    rate, alarms = format_rate(target["false_alarm_rate"]), format_count(target["false_alarms"])
    return (
        f"{format_rate(target['recall'])} of these defects would take a false-alarm rate of "
        f"{lowest}{rate} ({alarms} false alarms here)"
    )


def in_lines(share: Share) -> list[str]:
    """A share for a narrow column: counts, share, interval; a dash for a share of no images.

    Example:
        >>> in_lines(share(1, 4))
        ['1 of 4', '25.0 %', '4.6-69.9']
    """
    if share["share"] is None or share["low"] is None or share["high"] is None:
        return ["-"]
    interval = f"{100 * share['low']:.1f}-{100 * share['high']:.1f}"
    return [format_count(share), f"{100 * share['share']:.1f} %", interval]


def format_count(share: Share) -> str:
    """A share's counts.

    Example:
        >>> format_count(share(1, 4))
        '1 of 4'
    """
    return f"{share['count']} of {share['of']}"


def format_share(share: Share) -> str:
    """A share and its interval; a dash for a share of no images.

    Example:
        >>> format_share(share(1, 4)), format_share(share(0, 0))
        ('25.0 % (4.6 to 69.9)', '-')
    """
    if share["share"] is None or share["low"] is None or share["high"] is None:
        return "-"
    interval = f"{100 * share['low']:.1f} to {100 * share['high']:.1f}"
    return f"{100 * share['share']:.1f} % ({interval})"


def format_rate(rate: float) -> str:
    """A rate, in percent.

    Example:
        >>> format_rate(0.01), format_rate(0.0013)
        ('1 %', '0.13 %')
    """
    return f"{100 * rate:.3g} %"
