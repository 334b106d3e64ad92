import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.accuracy import PRODUCTS, OwnFlows, Table, difference, orders, wins
from benchmarks.accuracy_runs import Result

DEFECTIVE = np.array([False] * 40 + [True] * 25)


def table(scores: np.ndarray) -> Table:
    """Runs with these image scores (runs, N) of one product."""
    runs = {
        (seed, ""): {"products": {"a": {"ours": {"scores": row.tolist()}}}}
        for seed, row in enumerate(scores)
    }
    return Table(runs, "ours")


def test_mean_of_wins_is_the_mean_auroc_over_runs() -> None:
    scores = np.random.default_rng(0).integers(0, 9, (3, 65)).astype(float)  # with ties
    expected = np.mean([roc_auc_score(DEFECTIVE, row) for row in scores])
    assert wins(scores, DEFECTIVE).mean() == pytest.approx(expected)


def test_bootstrap_is_paired_and_covers_the_difference() -> None:
    chance = np.random.default_rng(1)
    weak = chance.normal(size=(2, 65)) + 0.5 * DEFECTIVE
    strong = weak + DEFECTIVE
    mean, low, high = difference(table(strong), table(weak), "a", DEFECTIVE)
    aurocs = [np.mean([roc_auc_score(DEFECTIVE, row) for row in one]) for one in (strong, weak)]
    assert mean == pytest.approx(aurocs[0] - aurocs[1])
    assert 0 < low < mean < high
    assert difference(table(weak), table(weak), "a", DEFECTIVE) == (0.0, 0.0, 0.0)


def runs_by_first() -> dict[tuple[int, str], Result]:
    """Runs in which a product is worth .1 more where it is learned first, if it is mono."""
    values = {"solar_mono": (0.9, 0.8), "solar_poly": (0.7, 0.7), "magnetic_tile": (0.6, 0.6)}
    return {
        (seed, first): {
            "products": {
                # a product that is learned first is worth what stands first
                product: {"ours": {"image_auroc": learned[0 if product == first else 1]}}
                for product, learned in values.items()
            }
        }
        for seed in (0, 1)
        for first in PRODUCTS
    }


def test_orders_are_told_apart_by_the_first_product() -> None:
    spread, last = orders(Table(runs_by_first(), "ours"))
    assert spread == pytest.approx(0.1)
    assert last == pytest.approx(-0.1)


def test_upper_line_is_of_products_learned_first() -> None:
    upper = OwnFlows(runs_by_first(), "ours")
    assert [upper.mean(product) for product in PRODUCTS] == pytest.approx([0.9, 0.7, 0.6])
    assert upper.overall == pytest.approx(2.2 / 3)
