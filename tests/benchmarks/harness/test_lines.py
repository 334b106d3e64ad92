import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.harness.lines import Line, difference, order_effects, wins
from benchmarks.harness.plans import PRODUCTS, beginning_with
from benchmarks.harness.study import Run

DEFECTIVE = np.array([False] * 40 + [True] * 25)


def line(scores: np.ndarray) -> Line:
    """Runs with these image scores (runs, N) of one product."""
    runs = [
        Run(seed, (), {"a": {"ours": {"scores": row.tolist()}}}) for seed, row in enumerate(scores)
    ]
    return Line(runs, "ours")


def test_mean_of_wins_is_the_mean_auroc_over_runs() -> None:
    scores = np.random.default_rng(0).integers(0, 9, (3, 65)).astype(float)  # with ties
    expected = np.mean([roc_auc_score(DEFECTIVE, row) for row in scores])
    assert wins(scores, DEFECTIVE).mean() == pytest.approx(expected)


def test_bootstrap_is_paired_and_covers_the_difference() -> None:
    generator = np.random.default_rng(1)
    weak = generator.normal(size=(2, 65)) + 0.5 * DEFECTIVE
    strong = weak + DEFECTIVE
    mean, low, high = difference(line(strong), line(weak), "a", DEFECTIVE)
    aurocs = [np.mean([roc_auc_score(DEFECTIVE, row) for row in rows]) for rows in (strong, weak)]
    assert mean == pytest.approx(aurocs[0] - aurocs[1])
    assert 0 < low < mean < high
    assert difference(line(weak), line(weak), "a", DEFECTIVE) == (0.0, 0.0, 0.0)


def runs_by_order() -> list[Run]:
    """Runs in which solar_mono has .1 more where it is learned first; the others do not care."""
    aurocs = {"solar_mono": (0.9, 0.8), "solar_poly": (0.7, 0.7), "magnetic_tile": (0.6, 0.6)}
    pixel_ap, guided = {"magnetic_tile": 0.3}, {"magnetic_tile": 0.4}
    return [
        Run(
            seed,
            beginning_with(first, PRODUCTS),
            {
                product: {
                    "ours": {
                        "image_auroc": values[0 if product == first else 1],
                        "pixel_ap": pixel_ap.get(product),
                        "guided_pixel_ap": guided.get(product),
                    }
                }
                for product, values in aurocs.items()
            },
        )
        for seed in (0, 1)
        for first in PRODUCTS
    ]


def test_order_matters_by_what_a_product_has_where_it_is_learned_first() -> None:
    spread, last = order_effects(Line(runs_by_order(), "ours"))
    assert spread == pytest.approx(0.1)
    assert last == pytest.approx(-0.1)


def test_order_of_a_single_product_has_no_effect() -> None:
    runs = [Run(0, ("a",), {"a": {"ours": {"image_auroc": 0.9}}})]
    assert order_effects(Line(runs, "ours")) == (0.0, 0.0)


def test_upper_bound_takes_products_where_they_are_learned_first() -> None:
    upper = Line(runs_by_order(), "ours", first_only=True)
    assert [upper.mean(product) for product in PRODUCTS] == pytest.approx([0.9, 0.7, 0.6])
    assert upper.overall() == pytest.approx(2.2 / 3)


def test_products_without_masks_are_left_out_of_the_mean_pixel_ap() -> None:
    runs = Line(runs_by_order(), "ours")
    assert runs.with_metric("pixel_ap") == ["magnetic_tile"]
    assert runs.overall("pixel_ap") == pytest.approx(0.3)
    assert runs.by_run("pixel_ap") == pytest.approx([0.3] * 6)
    none = {"image_auroc": 1.0, "pixel_ap": None, "guided_pixel_ap": None}
    without = [Run(0, (), {"a": {"ours": none}})]
    assert math.isnan(Line(without, "ours").overall("pixel_ap"))
    assert list(Line(without, "ours").cells(["a"])) == ["1.000 ± 0.000", "1.000", "nan", "nan"]
