"""How a finished run decides about its test images, and about products it does not know.

    python -m benchmarks.decisions runs/demo/last.ckpt

For each product with its own expert: how many good test images exceed the threshold; the limit is
the 99 % interval of that number (beta-binomial, by the images behind the threshold). Then for every
choice of products to know: which share of each product's images is called unknown. A limit on
novelty is a product's own, so none has to be learned anew for that. Prints a table, and one line of
JSON last; exits with 1 where a figure misses its limit, also where the note says why it does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from scipy.stats import betabinom
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.products import BATCH
from benchmarks.runs import checkpoint_argument, load_run
from benchmarks.timing import Report, Row
from moleflow_pl import MoLEFlow
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.tasks.calibration import Calibration

RATES = (0.05, 0.01, 0.001)
OUTSIDE = 0.005  # on each side of an interval
LEFT_OUT = 95.0  # % of a product's images that have to be unknown where it is
KNOWN_GOOD, KNOWN_DEFECTIVE = 1.0, 2.0  # % that may be where it is known


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
            shares.append(found.novelty_distance / limits)
    labels = torch.tensor([bool(record.gt_label) for record in records])
    return Seen(torch.cat(scores), torch.cat(shares), labels)


def alarms(model: MoLEFlow, seen: Sequence[Seen]) -> Iterator[Row]:
    """False alarms among good test images, a row a product and rate."""
    for task, one in enumerate(seen):
        found = calibration_of(model, task)
        for rate in RATES:
            found.false_alarm_rate = rate
            limit = found.score_threshold
            above = one.scores > limit.value
            good = int((~one.defective).sum())
            expected = (limit.images + 1) * rate
            count = betabinom(good, expected, limit.images + 1 - expected)
            yield Row(
                f"{model.schedule.names[task]}, {rate:.1%} asked: false alarms",
                float(above[~one.defective].sum()),
                f"of {good}",
                least=float(count.ppf(OUTSIDE)),
                most=float(count.ppf(1 - OUTSIDE)),
                note=f"{limit.images} held out{', extrapolated' * limit.extrapolated}; "
                f"{above[one.defective].float().mean():.1%} of the defective ones found",
            )


def unknown(names: Sequence[str], seen: Sequence[Seen]) -> Iterator[Row]:
    """Which share is called unknown, a row a set of known products and product."""
    for size in range(1, len(names) + 1):
        for known in combinations(range(len(names)), size):
            chosen = list(known)
            before = ", ".join(names[i] for i in known)
            for task, one in enumerate(seen):
                novelty = one.shares[:, chosen].amin(1)
                what = f"{before} known: {names[task]}"
                if task not in known:
                    note = why_alike(one, [seen[i] for i in known], chosen)
                    yield Row(f"{what} unknown", percent(novelty), "%", LEFT_OUT, note=note)
                    continue
                good, bad = novelty[~one.defective], novelty[one.defective]
                yield Row(f"{what}, good, unknown", percent(good), "%", most=KNOWN_GOOD)
                yield Row(f"{what}, defective, unknown", percent(bad), "%", most=KNOWN_DEFECTIVE)


def percent(novelty: Tensor) -> float | None:
    """The share of images that are beyond the limit, in percent; None where there is none."""
    return 100 * (novelty > 1).float().mean().item() if len(novelty) else None


def farther(shares: Tensor, most: float) -> float:
    """The share of a limit that `most` percent of images are beyond; 0 where there is none."""
    return shares.quantile(1 - most / 100).item() if len(shares) else 0.0


def why_alike(one: Seen, known: Sequence[Seen], columns: Sequence[int]) -> str:
    """Why a product that is left out cannot be told, where the known ones' defects are as far.

    Chosen with open eyes: the lowest limits that leave the known products known.
    """
    lowest = [
        max(
            farther(own.shares[own.defective, column], KNOWN_DEFECTIVE),
            farther(own.shares[~own.defective, column], KNOWN_GOOD),
        )
        for own, column in zip(known, columns, strict=True)
    ]
    found = percent((one.shares[:, columns] / torch.tensor(lowest)).amin(1))
    if found is None or found >= LEFT_OUT:
        return ""
    return f"any limit that leaves known defects known: {found:.1f} %"


def main() -> int:
    """Look, print."""
    model, config = load_run(checkpoint_argument(__doc__))
    tasks = range(len(model.schedule.tasks))
    limits = torch.tensor([calibration_of(model, task).novelty_limit for task in tasks])
    seen = [look(model, config, task, limits) for task in tasks]
    report = Report("decisions")
    for row in (*alarms(model, seen), *unknown(model.schedule.names, seen)):
        report.add(row)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
