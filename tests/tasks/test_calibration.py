import math

import numpy as np
import pytest
import torch

from moleflow_pl.errors import ConfigError
from moleflow_pl.tasks.calibration import Calibration, Limits, Suspect, TrainingScores
from moleflow_pl.tasks.schedule import Task, TaskSchedule
from moleflow_pl.tasks.thresholds import threshold


@pytest.mark.parametrize(
    "scores", [[1.0, 1e300], [1.0] * 50 + [1e39], [1.0, math.inf], [1e308] * 3]
)
def test_limit_that_no_score_exceeds_is_refused(scores: list[float]) -> None:
    with pytest.raises(
        ConfigError, match="no score exceeds the limit, so all images would be normal"
    ):
        threshold(scores)
    with pytest.raises(ConfigError, match="no score exceeds the limit"):
        limits_of(scores)


def limits_of(scores: list[float]) -> Limits:
    return Calibration(scores, scores, scores, scores).limits()


def test_an_unknown_products_limit_is_what_damaged_images_hardly_exceed() -> None:
    generator = np.random.default_rng(0)
    good, damaged = generator.normal(10, 1, 300).tolist(), generator.normal(20, 3, 300).tolist()
    assert (
        Calibration(novelty_distances=good, damaged_novelty_distances=damaged).novelty_limit
        == threshold(damaged).value
    )
    # never below what a hundredth of good ones exceeds
    assert (
        Calibration(novelty_distances=damaged, damaged_novelty_distances=good).novelty_limit
        == threshold(damaged).value
    )


def test_where_no_damage_was_tried_nothing_is_unknown() -> None:
    assert Calibration(novelty_distances=[1.0, 2.0]).novelty_limit == math.inf


def test_normalised_score_is_a_half_at_every_products_threshold() -> None:
    for scale in (1.0, 300.0):
        scores = (scale * np.random.default_rng(0).normal(size=200)).tolist()
        found = limits_of(scores)
        assert found.score == threshold(scores).value
        assert found.normalise(found.score) == pytest.approx(0.5)
        assert found.normalise(float(np.median(scores))) == pytest.approx(0.05)
        assert found.normalise(scale * 50) == pytest.approx(1.0, abs=1e-6)
        assert found.normalise(-scale * 1e9) == pytest.approx(0.0, abs=1e-6)
    alike = limits_of([2.0, 2.0])
    assert [alike.normalise(score) for score in (1.0, 2.0, 3.0)] == [0.0, 0.5, 1.0]


def test_products_own_threshold_follows_its_rate() -> None:
    found = Calibration(
        scores=list(range(199)),
        novelty_distances=[1.0] * 199,
    )
    assert found.score_threshold.value == 197
    found.false_alarm_rate = 0.1
    assert found.score_threshold.value == 179


def test_images_that_look_defective_are_named_and_can_be_left_out() -> None:
    scores = np.random.default_rng(0).exponential(size=60).tolist()
    found = Calibration(
        scores=[*scores, 50.0, 80.0],
        high_patch_scores=[*scores, 50.0, 80.0],
        images=[f"{i:02}.png" for i in range(62)],
        products=["a"] * 62,
    )
    assert found.suspects == [Suspect("61.png", 80.0), Suspect("60.png", 50.0)]
    clean = found.without({"60.png", "61.png"})
    assert clean.scores == clean.high_patch_scores == scores
    assert clean.products == ["a"] * 60
    assert clean.suspects == []
    assert clean.score_threshold.value == threshold(scores).value
    assert found.score_threshold.value < 10


def test_some_image_stays() -> None:
    with pytest.raises(ConfigError, match="no calibration image would be left"):
        Calibration(scores=[1.0], images=["a.png"]).without({"a.png"})


def test_some_image_of_each_product_stays() -> None:
    group = Calibration(
        [1.0, 2.0, 3.0], products=["a", "b", "b"], images=["a.png", "b1.png", "b2.png"]
    )
    with pytest.raises(ConfigError, match="no calibration image would be left of a: exclude fewer"):
        group.without({"a.png"})
    assert group.without({"b1.png"}).products == ["a", "b"]


def test_a_hundredth_of_a_usual_images_pixels_exceeds_the_pixel_threshold() -> None:
    patches = torch.randn(5, 40, 50, generator=torch.Generator().manual_seed(0))
    patches[3] += 100  # an image that should not be among them
    found = Calibration()
    found.add(torch.zeros(5), patches, torch.zeros(5), ["a"] * 5)
    shares = (patches > found.pixel_threshold).float().mean((1, 2))
    assert shares.median() == pytest.approx(0.01, abs=0.001)
    assert found.limits().pixel == found.pixel_threshold
    with pytest.raises(ConfigError, match="of 0 images have the median nan"):
        Calibration().pixel_threshold  # noqa: B018


def with_training() -> Calibration:
    """Twenty calibration images, and two hundred training images."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(220, generator=generator)
    names = [f"train/{i}.png" for i in range(200)]
    training = TrainingScores(scores[20:].tolist(), ["a"] * 200, names)
    return Calibration(
        scores=scores[:20].tolist(), high_patch_scores=[1.0] * 20, median_patch_scores=[0.0] * 20,
        products=["a"] * 20, images=[f"val/{i}.png" for i in range(20)], training=training,
    )  # fmt: skip


def test_training_images_do_not_serve_for_the_threshold() -> None:
    calibration = with_training()
    assert calibration.score_threshold == threshold(calibration.scores)
    assert calibration.limits().score == threshold(calibration.scores).value


def test_suspect_among_training_images_is_named_and_left_out() -> None:
    calibration = with_training()
    calibration.training.scores[7] = 40.0
    assert calibration.suspects[0] == Suspect("train/7.png", 40.0)
    left = calibration.without(["train/7.png", "val/3.png"])
    assert left.suspects == []
    assert (len(left.scores), len(left.training.scores)) == (19, 199)
    assert "train/7.png" not in left.training.images


def test_product_of_a_group_has_its_own_training_images() -> None:
    calibration = with_training()
    calibration.products[:10] = ["b"] * 10
    calibration.training.products[:150] = ["b"] * 150
    assert len(calibration.for_product("b").training.scores) == 150
    assert calibration.for_product("a").training.images == [
        f"train/{i}.png" for i in range(150, 200)
    ]


def test_training_scores_survive_a_checkpoint() -> None:
    schedule = TaskSchedule([Task(["a"], 1, calibration=with_training())])
    assert TaskSchedule.from_state(schedule.state()) == schedule
