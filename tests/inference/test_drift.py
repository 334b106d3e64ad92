import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from moleflow_pl.errors import ConfigError
from moleflow_pl.inference.decisions import DecisionMaker, Prediction
from moleflow_pl.inference.drift import DriftMonitor, reference_of
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import TaskSchedule

CALIBRATION = 30


def drawn(generator: np.random.Generator, count: int) -> dict[str, list[float]]:
    """What a steady product's images give."""
    return {
        "score": generator.normal(10, 1, count).tolist(),
        "router_distance": generator.gamma(9, 1, count).tolist(),
        "novelty_ratio": generator.normal(0.5, 0.05, count).tolist(),
        "brightness": generator.normal(0.4, 0.01, count).tolist(),
    }


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def schedule_of(generator: np.random.Generator, *products: str) -> TaskSchedule:
    """Learned products that were calibrated with steady images."""
    schedule = TaskSchedule()
    schedule.extend([[product] for product in products], epochs=1)
    for task in schedule.tasks:
        numbers = drawn(generator, CALIBRATION)
        task.epochs_done = 1
        task.calibration = Calibration(
            numbers["score"], numbers["score"], numbers["score"], numbers["novelty_ratio"],
            [1.0] * CALIBRATION, brightness=numbers["brightness"],
        )  # fmt: skip
    return schedule


def predictions(
    generator: np.random.Generator, count: int, product: str = "a", **changes: float
) -> Iterator[Prediction]:
    """Predictions of images, some of whose numbers are moved by an amount."""
    columns = drawn(generator, count)
    for i in range(count):
        values = {name: column[i] + changes.get(name, 0) for name, column in columns.items()}
        label = "normal" if values["score"] < 14 else "anomalous"
        yield Prediction(
            product=product, router_margin=None, patch_scores=torch.zeros(1, 1), size=(8, 8),
            label=label, **values,
        )  # fmt: skip


@pytest.fixture
def decisions(generator: np.random.Generator) -> DecisionMaker:
    return DecisionMaker(schedule_of(generator, "a", "b"))


def test_steady_products_stay_steady(
    generator: np.random.Generator, decisions: DecisionMaker
) -> None:
    monitor = DriftMonitor(decisions)
    found = monitor.watch(predictions(generator, 2000))
    assert [(one.product, one.state, one.images, one.reasons) for one in found] == [
        ("a", "steady", 2000, [])
    ]
    assert max(found[0].evidence.values()) < 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"brightness": -0.05}, "brightness has fallen since image "),
        ({"brightness": 0.05}, "brightness has risen since image "),
        ({"score": 3.0}, "the score of ordinary images has risen since image "),
        ({"router_distance": 30.0}, "the router's distance has risen since image "),
        ({"novelty_ratio": 0.4}, "novelty ratio has risen since image "),
    ],
)
def test_change_is_a_warning_and_then_drift_described_in_words(
    changes: dict[str, float],
    words: str,
    generator: np.random.Generator,
    decisions: DecisionMaker,
) -> None:
    monitor = DriftMonitor(decisions)
    monitor.watch(predictions(generator, 300))
    states = [monitor.add(one) for one in predictions(generator, 60, **changes)]
    first = next(i for i, one in enumerate(states) if one.state == "drift")
    assert first < 40
    assert "warning" in [one.state for one in states[:first]]
    (change,) = states[first].changes
    assert str(change).startswith(words)
    assert 290 <= change.since <= change.images == 301 + first
    assert json.loads(json.dumps(states[-1].to_dict()))["reasons"][0].startswith(words)


def test_drift_stays_until_the_chart_is_started_anew(
    generator: np.random.Generator, decisions: DecisionMaker
) -> None:
    monitor = DriftMonitor(decisions)
    monitor.watch(predictions(generator, 60, brightness=0.2))
    (found,) = monitor.watch(predictions(generator, 300))
    assert found.state == "drift"
    monitor.restart("a")
    (found,) = monitor.watch(predictions(generator, 300))
    assert (found.state, found.images) == ("steady", 300)


def test_lamp_that_makes_every_image_anomalous_is_seen(
    generator: np.random.Generator, decisions: DecisionMaker
) -> None:
    monitor = DriftMonitor(decisions)
    (found,) = monitor.watch(predictions(generator, 40, score=100.0, brightness=-0.1))
    assert found.state == "drift"
    assert [change.channel for change in found.changes] == ["brightness"]


def test_defects_are_no_drift_of_the_score(
    generator: np.random.Generator, decisions: DecisionMaker
) -> None:
    monitor = DriftMonitor(decisions)
    monitor.watch(predictions(generator, 100))
    (found,) = monitor.watch(predictions(generator, 60, score=20.0))
    assert found.state == "steady"


def test_images_more_ordinary_than_before_are_no_drift(
    generator: np.random.Generator, decisions: DecisionMaker
) -> None:
    monitor = DriftMonitor(decisions)
    monitor.watch(predictions(generator, 200))
    (found,) = monitor.watch(predictions(generator, 60, novelty_ratio=-0.4, router_distance=-9))
    assert found.state == "steady"


def test_each_product_has_a_chart_of_its_own(
    generator: np.random.Generator, decisions: DecisionMaker
) -> None:
    monitor = DriftMonitor(decisions)
    monitor.watch(predictions(generator, 40))
    found = monitor.watch(predictions(generator, 40, "b", brightness=0.2))
    assert {one.product: one.state for one in found} == {"a": "steady", "b": "drift"}


def test_monitor_goes_on_after_a_restart_of_the_program(
    generator: np.random.Generator, decisions: DecisionMaker
) -> None:
    straight = DriftMonitor(decisions)
    straight.watch(predictions(generator, 100))
    stopped = DriftMonitor(decisions, state=json.loads(json.dumps(straight.state())))
    for one in predictions(generator, 50, brightness=0.03):
        assert straight.add(one) == stopped.add(one)
    assert straight.state() == stopped.state()


def test_product_that_was_calibrated_anew_has_a_new_chart(generator: np.random.Generator) -> None:
    schedule = schedule_of(generator, "a", "b")
    monitor = DriftMonitor(DecisionMaker(schedule))
    monitor.watch(predictions(generator, 60, brightness=0.2))
    monitor.watch(predictions(generator, 60, "b", brightness=0.2))
    schedule.tasks[0].calibration = schedule_of(generator, "a").tasks[0].calibration
    again = DriftMonitor(DecisionMaker(schedule), state=monitor.state())
    assert {one.product: one.state for one in again.drifts} == {"a": "steady", "b": "drift"}


def test_router_distances_are_measured_anew_where_the_model_has_another_product(
    generator: np.random.Generator,
) -> None:
    """All products share the covariance of these distances."""
    schedule = schedule_of(generator, "a")
    monitor = DriftMonitor(DecisionMaker(schedule))
    monitor.watch(predictions(generator, 100))
    schedule.tasks += schedule_of(generator, "b").tasks
    again = DriftMonitor(DecisionMaker(schedule), state=monitor.state())
    (found,) = again.watch(predictions(generator, 100, router_distance=50))
    assert (found.state, found.images) == ("steady", 200)


def test_product_without_calibration_is_compared_with_its_first_images(
    generator: np.random.Generator,
) -> None:
    schedule = schedule_of(generator, "a")
    schedule.tasks[0].calibration = None
    monitor = DriftMonitor(DecisionMaker(schedule))
    assert [one.state for one in monitor.watch(predictions(generator, 200))] == ["steady"]
    assert [one.state for one in monitor.watch(predictions(generator, 60, brightness=-0.2))] == [
        "drift"
    ]


def test_images_above_the_threshold_are_no_reference_for_ordinary_ones() -> None:
    calibration = Calibration([1.0, 2.0, 9.0], novelty_distances=[1.0, 2.0, 3.0])
    found = reference_of(calibration, threshold=5.0)
    assert found == {"score": [1.0, 2.0], "novelty_ratio": [0.0] * 3, "brightness": []}


def test_invalid_rate_is_refused(decisions: DecisionMaker) -> None:
    with pytest.raises(ConfigError, match="images_per_false_alarm must be a number of at least"):
        DriftMonitor(decisions, images_per_false_alarm=10)
