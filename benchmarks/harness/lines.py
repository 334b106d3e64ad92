"""Lines of a table over seeds and orders: means, spreads, differences with their intervals.

For `benchmarks.accuracy`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.products import GUIDED
from benchmarks.harness.study import Run

RESAMPLES = 1000
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Line:
    """Runs by seed and order, and one column of their results.

    Attributes:
        runs: The runs.
        column: Which results: a patch score with `routed` or `oracle`, or an image score's key.
        first_only: Use only the runs that learned a product first, when the whole flow is trained
            on it and not an expert alone: an upper bound.
    """

    runs: Sequence[Run]
    column: str
    first_only: bool = False

    @property
    def products(self) -> list[str]:
        """The products of the runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.products))

    def runs_of(self, product: str) -> list[Run]:
        """The runs that count for a product."""
        runs = [run for run in self.runs if product in run.products]
        return [run for run in runs if run.order[0] == product] if self.first_only else runs

    def values(self, product: str, metric: str = "image_auroc") -> list[float]:
        """A metric of a product by run; empty where the product has none."""
        runs = self.runs_of(product)
        by_run = [run.products[product][self.column][metric] for run in runs]
        return [value for value in by_run if value is not None]

    def mean(self, product: str, metric: str = "image_auroc") -> float:
        """Mean over orders and seeds."""
        return statistics.mean(self.values(product, metric))

    def with_metric(self, metric: str) -> list[str]:
        """The products that have a metric."""
        return [name for name in self.products if self.values(name, metric)]

    def overall(self, metric: str = "image_auroc") -> float:
        """Mean over the products that have a metric, orders and seeds; NaN where none has it."""
        means = [self.mean(product, metric) for product in self.with_metric(metric)]
        return statistics.mean(means) if means else float("nan")

    def by_run(self, metric: str) -> list[float]:
        """Mean over products by run; empty where no product has the metric."""
        single = [Line([run], self.column).overall(metric) for run in self.runs]
        return [value for value in single if not math.isnan(value)]

    def scores(self, product: str) -> np.ndarray:
        """Image scores (runs, N)."""
        runs = self.runs_of(product)
        return np.array([run.products[product][self.column]["scores"] for run in runs])

    def cells(self, products: Sequence[str]) -> Iterator[str]:
        """Mean and spread of image AUROC by product, its mean, and mean pixel AP of both maps."""
        for product in products:
            values = self.values(product)
            yield f"{statistics.mean(values):.3f} ± {statistics.pstdev(values):.3f}"
        yield f"{self.overall():.3f}"
        yield from (f"{self.overall(metric):.3f}" for metric in ("pixel_ap", GUIDED))


def wins(scores: np.ndarray, defective: np.ndarray) -> np.ndarray:
    """Share of runs in which a defective image scores higher than a good one.

    Shape: scores (runs, N), defective (N,) bool -> (defective images, good images).
    """
    bad, good = scores[:, defective], scores[:, ~defective]
    pairs = [(b[:, None] > g) + 0.5 * (b[:, None] == g) for b, g in zip(bad, good, strict=True)]
    return np.mean(pairs, axis=0)


def difference(
    line: Line, baseline: Line, product: str, defective: np.ndarray
) -> tuple[float, float, float]:
    """Image AUROC above a baseline's, with its 95 % confidence interval.

    A paired bootstrap over images. The mean over runs of an AUROC is the mean of `wins`, so that a
    sample of images selects rows and columns of it.

    Returns:
        The difference, and the lower and upper end of the interval.
    """
    gain = wins(line.scores(product), defective) - wins(baseline.scores(product), defective)
    generator = np.random.default_rng(0)
    samples = (generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in gain.shape)
    resampled = [float(rows @ gain @ columns) for rows, columns in zip(*samples, strict=True)]
    low, high = np.quantile(resampled, INTERVAL)
    return float(gain.mean()), float(low), float(high)


def order_effects(line: Line) -> tuple[float, float]:
    """How much the order of the products matters to image AUROC.

    Returns:
        The largest spread of a product's mean over orders, and the worst difference between the
        mean where a product is learned later and where it is learned first (0 if no product is
        learned first and later).
    """
    spreads, changes = [], []
    for product in line.products:
        means = {
            order: Line([run for run in line.runs if run.order == order], line.column).mean(product)
            for order in {run.order for run in line.runs}
            if product in order
        }
        first = [mean for order, mean in means.items() if order[0] == product]
        later = [mean for order, mean in means.items() if order[0] != product]
        spreads.append(max(means.values()) - min(means.values()))
        if first and later:
            changes.append(statistics.mean(later) - statistics.mean(first))
    return max(spreads), min(changes, default=0.0)
