from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.harness.thresholds import FORMULAS, alarms_by_chance, judged, side_by_side
from moleflow_pl.tasks.own_scores import OwnScores
from tests.helpers.models import fit
from tests.helpers.products import draw_product


def test_alarms_of_a_rate_that_is_known_exactly_are_binomial() -> None:
    found = alarms_by_chance(1000, 10**8, 0.01)
    assert found == (binom.ppf(0.005, 1000, 0.01), binom.ppf(0.995, 1000, 0.01))


def test_a_threshold_is_judged_by_both_kinds_of_test_images() -> None:
    tested = OwnScores(good=[1.0, 2.0, 3.0, 4.0], defective=[3.0, 5.0])
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


def test_a_run_is_judged_by_what_its_checkpoint_holds(data_root: Path, tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0, train=12)
    module = fit(tmp_path / "run", tmp_path, ["a"], epochs=1, data={"val_fraction": 0.5})
    rows = list(side_by_side(tmp_path / "run"))
    assert [row.what.split(", ")[1] for row in rows] == list(FORMULAS)
    limit = module.schedule.tasks[0].calibration.score_threshold.value  # type: ignore[union-attr]
    tested = module.schedule.tasks[0].tested
    assert tested is not None
    assert rows[1].value == sum(score > limit for score in tested.good)
    fit(tmp_path / "plain", tmp_path, ["a"], epochs=1, data={"val_fraction": 0.0})
    with pytest.raises(SystemExit, match="a of .* has no calibration images"):
        list(side_by_side(tmp_path / "plain"))
