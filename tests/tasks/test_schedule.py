import pytest

from benchmarks.literal import learning_rates
from moleflow_pl.errors import ConfigError
from moleflow_pl.tasks.calibration import Calibration, TrainingScores
from moleflow_pl.tasks.schedule import TaskSchedule, lr_factor


@pytest.mark.parametrize("first_task", [True, False])
@pytest.mark.parametrize("epochs", [40, 3])
def test_learning_rate_follows_torchs_schedule_epoch_by_epoch(
    first_task: bool, epochs: int
) -> None:
    expected = learning_rates(epochs, first_task, lr=1.0)
    warmup = 0 if first_task else 2
    actual = [lr_factor(epoch, epochs, warmup) for epoch in range(epochs)]
    print("first task:" if first_task else "later task:", [round(rate, 4) for rate in actual])
    assert actual == pytest.approx(expected, rel=1e-9)


def test_learning_rate_table_has_the_published_numbers() -> None:
    first = [round(lr_factor(epoch, 40), 4) for epoch in range(40)]
    later = [round(lr_factor(epoch, 40, warmup=2), 4) for epoch in range(40)]
    assert (first[0], first[-1]) == (1.0, 0.0115)
    assert later[:4] == [0.5, 1.0, 1.0, 0.9985]
    assert later[-1] == 0.0237


def schedule_of(*done: int) -> TaskSchedule:
    schedule = TaskSchedule()
    schedule.extend([["a"], ["b", "c"], ["d"]], epochs=3)
    for task, epochs in zip(schedule.tasks, done, strict=False):
        task.epochs_done = epochs
    return schedule


def test_one_known_product_is_enough_to_inspect_and_none_is_refused() -> None:
    for groups in ([], [["x"], ["c", "y"]], [["d"]]):
        schedule_of(3).require_any(groups)
    with pytest.raises(
        ConfigError, match=r"\['x', 'y'\] has no product of this model, which knows"
    ):
        schedule_of(3).require_any([["x", "y"]])


def test_current_task_is_the_first_that_is_not_learned() -> None:
    assert [schedule_of(*done).current for done in ((), (2,), (3,), (3, 3, 3))] == [0, 0, 1, None]


def test_boundary_is_between_tasks_alone() -> None:
    done = ((), (2,), (3,), (3, 1), (3, 3, 3))
    assert [schedule_of(*d).at_boundary for d in done] == [None, None, 0, None, 2]


def test_tasks_may_have_epochs_of_their_own() -> None:
    schedule = schedule_of(3, 3, 3)
    schedule.extend([["a"], ["b", "c"], ["d"], ["e"]], epochs=7)
    assert [task.epochs for task in schedule.tasks] == [3, 3, 3, 7]
    assert schedule.current == 3


def test_task_list_may_only_grow_at_its_end() -> None:
    for groups in ([["b"], ["a"]], [["a"]], []):
        with pytest.raises(ConfigError, match=r"tasks are \['a', 'b\+c', 'd'\]"):
            schedule_of(3).extend(groups, epochs=3)


def test_state_survives_a_round_trip() -> None:
    schedule = schedule_of(3, 1)
    schedule.tasks[0].evaluation = {"metrics": {}}
    assert TaskSchedule.from_state(schedule.state()) == schedule


def test_tasks_not_begun_can_be_dropped_from_the_plan() -> None:
    schedule = schedule_of(3, 1)
    assert schedule.replanned([["a"], ["b", "c"]], epochs=3).names == ["a", "b+c"]
    assert schedule.replanned([["a"], ["b", "c"], ["e"]], epochs=3).names == ["a", "b+c", "e"]
    assert schedule.todo == [1, 2]
    assert schedule.epochs_done == 4


def calibrated() -> TaskSchedule:
    schedule = schedule_of(3, 3, 0)
    for task, images in zip(
        schedule.tasks, (["1.png", "2.png"], ["b/1.png", "c/1.png", "c/x.png"]), strict=False
    ):
        task.calibration = Calibration(scores=[1.0, 2.0, 3.0][: len(images)], images=images)
    assert schedule.tasks[0].calibration is not None
    schedule.tasks[0].calibration.training = TrainingScores([1.0], ["a"], ["7.png"])
    return schedule


def test_excluded_images_leave_their_tasks_calibration_by_name_or_path() -> None:
    schedule = calibrated()
    schedule.exclude(["2.png", "good\\c\\x.png"])
    schedule.exclude(["/data/old/c/1.png"], "b")
    assert [task.calibration and task.calibration.images for task in schedule.tasks] == [
        ["1.png"], ["b/1.png"], None
    ]  # fmt: skip
    assert schedule.tasks[1].calibration is not None
    assert schedule.tasks[1].calibration.scores == [1.0]


@pytest.mark.parametrize(
    ("images", "product", "told"),
    [
        (["9.png"], None, r"'9.png' is neither .* nor a training image of \['a', 'b\+c'\]"),
        (["2.png"], "b", r"'2.png' is not a calibration image of \['b\+c'\], and only these"),
        (["b/1.png"], None, r"is an image of each of \['a', 'b\+c'\]: name the product"),
        (["1.png", "2.png"], "a", "no calibration image would be left"),
        (["c/x.png", "1.png", "2.png"], None, "no calibration image would be left"),
        (["1.png"], "e", "no product 'e'"),
    ],
)
def test_exclusion_that_is_not_clear_changes_nothing(
    images: list[str], product: str | None, told: str
) -> None:
    schedule = calibrated()
    with pytest.raises(ConfigError, match=told):
        schedule.exclude(images, product)
    assert schedule == calibrated()
