"""How a finished run decides about its test images, and about products it does not know.

    python -m benchmarks.decisions runs/demo/last.ckpt

Prints, for each product with its own expert: how many good test images exceed the threshold, beside
the 99 % interval of that number (beta-binomial, by the images behind the threshold), and how many
defective ones do. Then for every choice of products to know: which share of a product's images is
called unknown. A limit on novelty is a product's own, so none has to be learned anew for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import betabinom
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.runs import checkpoint_argument, load_run
from moleflow_pl import MoLEFlow
from moleflow_pl.calibration import Calibration
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.layouts import LAYOUTS

BATCH = 16
OUTSIDE = 0.005  # on each side of an interval


@dataclass
class Seen:
    """What the model says of a product's test images.

    Attributes:
        scores: By the product's own expert (N,).
        shares: Distance to each product as a share of that product's limit (N, T).
        defective: Which images are (N,), bool.
    """

    scores: Tensor
    shares: Tensor
    defective: Tensor


def calibration_of(model: MoLEFlow, task: int) -> Calibration:
    """A task's calibration, which has to be there."""
    found = model.schedule.tasks[task].calibration
    assert found is not None, "nothing was held out: fit with data.val_fraction above 0"
    return found


def look(model: MoLEFlow, config: dict[str, Any], task: int, limits: Tensor) -> Seen:
    """Score a task's test images."""
    layout = LAYOUTS[config["layout"]](config["root"])
    products = model.schedule.tasks[task].products
    records = [record for product in products for record in layout.test(product)]
    images = ImageDataset(records, task, model.extractor.image_size)
    scores, shares = [], []
    with torch.inference_mode():
        for batch in DataLoader(images, BATCH, collate_fn=images.collate):
            found = model.inspect(model.extractor(batch["image"]), task)
            scores.append(found.score)
            shares.append(found.novelty / limits)
    labels = torch.tensor([bool(record.gt_label) for record in records])
    return Seen(torch.cat(scores), torch.cat(shares), labels)


def alarm_rows(model: MoLEFlow, seen: list[Seen], rates: tuple[float, ...]) -> Iterator[list[str]]:
    """False alarms beside what was asked for, a row a product and rate."""
    for task, one in enumerate(seen):
        found = calibration_of(model, task)
        for rate in rates:
            found.false_alarm_rate = rate
            limit = found.score_threshold
            above = one.scores > limit.value
            good = int((~one.defective).sum())
            expected = (limit.images + 1) * rate
            count = betabinom(good, expected, limit.images + 1 - expected)
            low, high = count.ppf(OUTSIDE), count.ppf(1 - OUTSIDE)
            alarms = int(above[~one.defective].sum())
            yield [
                model.schedule.names[task], f"{rate:.1%}", str(limit.images),
                "extrapolated" if limit.extrapolated else "", f"{alarms} of {good}",
                f"{low:.0f} to {high:.0f}", "yes" if low <= alarms <= high else "no",
                f"{above[one.defective].float().mean():.3f}",
            ]  # fmt: skip


def unknown_rows(names: list[str], seen: list[Seen]) -> Iterator[list[str]]:
    """Which share is called unknown, a row a set of known products and product."""
    for size in range(1, len(names) + 1):
        for known in combinations(range(len(names)), size):
            for task, one in enumerate(seen):
                unknown = one.shares[:, list(known)].amin(1) > 1
                parts = (unknown[~one.defective], unknown[one.defective])
                good, bad = (f"{part.float().mean():.3f}" for part in parts)
                yield [
                    ", ".join(names[i] for i in known), names[task],
                    "known" if task in known else "left out", good, bad,
                ]  # fmt: skip


def show(title: str, columns: tuple[str, ...], rows: Iterator[list[str]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def main() -> None:
    """Look, print."""
    model, config = load_run(checkpoint_argument(__doc__))
    tasks = range(len(model.schedule.tasks))
    limits = torch.tensor([calibration_of(model, task).distance_limit for task in tasks])
    seen = [look(model, config, task, limits) for task in tasks]
    show(
        "false alarms among good test images",
        ("product", "asked", "held out", "", "exceed", "99 % interval", "inside", "defects found"),
        alarm_rows(model, seen, (0.05, 0.01, 0.001)),
    )
    show(
        "called unknown",
        ("known products", "images of", "", "good", "defective"),
        unknown_rows(model.schedule.names, seen),
    )


if __name__ == "__main__":
    main()
