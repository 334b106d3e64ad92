from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, genpareto

from benchmarks.harness import thresholds
from benchmarks.harness.thresholds import (
    FORMULAS,
    POOLED,
    alarms_by_chance,
    drawn_thresholds,
    formulas_for,
    judged,
    limit_by_shape,
    redrawn,
    side_by_side,
    tail_shape,
)
from moleflow_pl.tasks.oracle_scores import OracleScores
from moleflow_pl.tasks.thresholds import limit
from tests.helpers.models import fit
from tests.helpers.products import draw_product


def test_alarms_of_a_rate_that_is_known_exactly_are_binomial() -> None:
    found = alarms_by_chance(1000, 10**8, 0.01)
    assert found == (binom.ppf(0.005, 1000, 0.01), binom.ppf(0.995, 1000, 0.01))


def test_a_threshold_is_judged_by_both_kinds_of_test_images() -> None:
    tested = OracleScores(good=[1.0, 2.0, 3.0, 4.0], defective=[3.0, 5.0])
    row = judged("a", 2.5, [0.0] * 99, tested)
    assert (row.value, row.unit) == (2, "of 4")
    assert not row.holds  # half of the good images at a rate of 1 %
    assert row.note.startswith("99 calibration images; 100.0% of the defective ones found, 50.0%")
    assert judged("a", 4.0, [0.0] * 99, tested).holds


def test_one_defective_calibration_image_moves_the_former_threshold_alone() -> None:
    good = np.random.default_rng(0).exponential(size=60).tolist()
    former, robust = (formula([*good, 100.0], 0.01) for formula in FORMULAS.values())
    assert former >= 100
    assert robust < 12
    former, robust = (formula(good, 0.01) for formula in FORMULAS.values())
    assert former == robust


def test_drawn_defective_images_move_the_former_threshold_alone() -> None:
    good = np.random.default_rng(1).exponential(size=400).tolist()
    tested = OracleScores(good=good, defective=[30.0 + i for i in range(20)])
    former, robust = (
        [drawn_thresholds(tested, 60, share, formula) for share in (0.0, 0.05)]
        for formula in FORMULAS.values()
    )
    assert former[0][1] == robust[0][1] == 1  # all defective images are found
    assert former[1][1] < 0.3
    assert robust[1][1] > 0.9
    assert 0.005 < robust[1][0] < robust[0][0] < 0.02


def test_drawn_thresholds_of_a_run_are_judged_by_those_of_clean_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tested = OracleScores(good=[float(i) for i in range(100)], defective=[200.0, 5.0])
    found = [("a", [0.0] * 30, tested), ("few", [0.0] * 30, OracleScores([1.0], [2.0]))]
    monkeypatch.setattr(thresholds, "scores_in", lambda run: iter(found))
    monkeypatch.setattr(thresholds, "formulas_for", lambda *_: FORMULAS)
    shares = iter([(0.01, 0.5), (0.01, 0.5), (0.01, 0.5), (0.01, 0.5), (0.021, 0.41), (0.0, 0.39)])
    monkeypatch.setattr(thresholds, "drawn_thresholds", lambda *_: next(shares))
    rows = list(redrawn(Path()))
    assert len(rows) == 2 * 3 * 2
    assert [row.least for row in rows[:6]] == [None] * 6
    assert [row.holds for row in rows[6:]] == [True, True, True, False, False, True]


def test_a_tail_of_known_shape_finds_the_quantile_of_such_scores() -> None:
    generator, wanted = np.random.default_rng(0), genpareto(-0.3).ppf(0.99)
    draws = genpareto(-0.3).rvs((400, 60), random_state=generator)
    limits = [limit_by_shape(scores, 0.01, -0.3) for scores in draws]
    assert np.median(limits) == pytest.approx(wanted, rel=0.1)
    assert np.median([limit(scores, 0.01) for scores in draws]) > 1.1 * wanted


def test_shape_is_that_of_all_other_products_whatever_their_scale() -> None:
    generator = np.random.default_rng(0)
    scores = genpareto(-0.3).rvs((4, 2000), random_state=generator) * [[1], [10], [0.1], [5]]
    assert tail_shape(scores) == pytest.approx(-0.3, abs=0.05)
    every = {name: row.tolist() for name, row in zip("abc", scores, strict=False)}
    pooled = formulas_for("a", every)[POOLED]
    assert pooled.keywords == {"shape": tail_shape(scores[1:3])}  # type: ignore[attr-defined]
    assert POOLED not in formulas_for("a", {"a": every["a"]})


def test_a_run_is_judged_by_what_its_checkpoint_holds(data_root: Path, tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0, train=12)
    module = fit(tmp_path / "run", tmp_path, ["a"], epochs=1, data={"val_fraction": 0.5})
    rows = list(side_by_side(tmp_path / "run"))
    assert [row.what.split(", ")[1] for row in rows] == list(FORMULAS)
    limit = module.schedule.tasks[0].calibration.score_threshold.value  # type: ignore[union-attr]
    tested = module.schedule.tasks[0].oracle_scores
    assert tested is not None
    assert rows[1].value == sum(score > limit for score in tested.good)
    fit(tmp_path / "plain", tmp_path, ["a"], epochs=1, data={"val_fraction": 0.0})
    with pytest.raises(SystemExit, match="a of .* has no calibration images"):
        list(side_by_side(tmp_path / "plain"))
