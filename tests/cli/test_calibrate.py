import copy
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.cli.calibrate import main, make_parser, threshold_table
from moleflow_pl.errors import ConfigError
from moleflow_pl.tasks.calibration import Calibration, TrainingScores
from moleflow_pl.tasks.schedule import TaskSchedule


def shown(schedule: TaskSchedule, before: TaskSchedule | None = None, width: int = 160) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(threshold_table(schedule, before))
    return captured.get()


def read_schedule(path: Path) -> TaskSchedule:
    return TaskSchedule.from_state(read_checkpoint(path)[STATE_KEY]["tasks"])


def schedule_with(*calibrations: Calibration | None) -> TaskSchedule:
    schedule = TaskSchedule()
    schedule.extend([[f"p{i}"] for i in range(len(calibrations))], epochs=1)
    for task, one in zip(schedule.tasks, calibrations, strict=True):
        task.epochs_done, task.calibration = 1, one
    return schedule


def test_table_shows_the_confidence_interval_and_what_is_extrapolated() -> None:
    enough = Calibration(scores=list(range(199)))
    few = Calibration(scores=list(range(20)), false_alarm_rate=0.001)
    lines = shown(schedule_with(enough, few, None)).splitlines()
    one, two, more, three = [line for line in lines if "│" in line]
    assert "199" in one
    assert "197 at 1.000%" in one
    assert "0.052% to 3.674%" in one  # Beta(2, 198)
    assert "0.000% to 23.27" in two
    assert "extrapolated" in more
    assert "no calibration images" in three


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("product", ["p", "solar_mono", "a_long_name+" * 5])
def test_the_table_fits_80_columns_without_a_cut_word(product: str, changed: bool) -> None:
    schedule = TaskSchedule()
    schedule.extend([[product], ["b"], ["c"], ["d"]], epochs=1)
    suspect, few = [*map(float, range(60)), 5e3, 6e3], [-12345.6 * i for i in range(20)]
    for task, scores in zip(
        schedule.tasks, (suspect, few, [*map(float, range(199))]), strict=False
    ):
        task.epochs_done, task.calibration = 1, Calibration(scores, false_alarm_rate=0.1)
    schedule.tasks[3].epochs_done = 1
    before = copy.deepcopy(schedule) if changed else None
    text = shown(schedule, before, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    words = set(re.findall(r"[^\s│┃]+", shown(schedule, before)))
    words = {word for word in words if not {*word} & {*"━─", *product}} | {
        "calibration",
        "threshold",
    }
    assert words <= set(re.findall(r"[^\s│┃]+", text))


def test_products_of_a_group_are_shown_by_themselves_too() -> None:
    scores = [*map(float, range(99)), *map(float, range(1000, 1200))]
    schedule = TaskSchedule()
    schedule.extend([["a", "b"]], epochs=1)
    schedule.tasks[0].epochs_done = 1
    schedule.tasks[0].calibration = Calibration(scores, products=["a"] * 99 + ["b"] * 200)
    rows = [line.split("│")[1:4] for line in shown(schedule).splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["a+b", "299", "1197 at 1.000%"],
        ["a", "99", "98 at 1.000%"],
        ["b", "200", "1198 at 1.000%"],
    ]  # fmt: skip


def test_a_changed_threshold_is_shown_beside_the_one_before() -> None:
    before = schedule_with(*(Calibration(scores=list(range(199))) for _ in range(2)))
    now = copy.deepcopy(before)
    now.set_false_alarm_rate(0.1, "p1")
    rows = [line.split("│")[1:5] for line in shown(now, before).splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["p0", "199", "197 at 1.000%", "197 at 1.000%"],
        ["p1", "199", "197 at 1.000%", "179 at 10.000%"],
    ]


def test_one_product_can_have_a_rate_of_its_own() -> None:
    schedule = schedule_with(*(Calibration(scores=[1.0, 2.0]) for _ in range(2)))
    schedule.set_false_alarm_rate(0.05, "p1")
    assert [task.calibration.false_alarm_rate for task in schedule.tasks] == [0.01, 0.05]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rate", "product", "message"),
    [
        (2.0, None, "must be a number from 1e-06 to below 1, got 2.0"),
        (0.1, "x", r"no product 'x' in this model: it knows \['p0', 'p1'\]"),
        (0.1, "p1", "'p1' has no calibration images"),
    ],
)
def test_invalid_values_are_refused(rate: float, product: str | None, message: str) -> None:
    schedule = schedule_with(Calibration(scores=[1.0]), None)
    before = copy.deepcopy(schedule)
    with pytest.raises(ConfigError, match=message):
        schedule.set_false_alarm_rate(rate, product)
    assert schedule == before


def test_a_change_says_that_it_is_saved_and_what_was_before(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    path = shutil.copy(learned[0] / "last.ckpt", tmp_path)
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        main(["--ckpt_path", str(path), "--false-alarm-rate=0.05"])
    assert caplog.messages == [f"saved: {path}"]
    shown_now = capsys.readouterr().out
    assert "before" in shown_now
    assert "5.000%" in shown_now


def with_calibration(learned: tuple[Path, MoLEFlow], folder: Path, *products: str) -> Path:
    """A checkpoint whose first task has these products, with three calibration images of each."""
    path = Path(shutil.copy(learned[0] / "last.ckpt", folder))
    checkpoint = read_checkpoint(path)
    schedule = TaskSchedule.from_state(checkpoint[STATE_KEY]["tasks"])
    images = [f"{name}/{i}.png" for name in products for i in range(3)]
    shown, scores = [image.split("/")[0] for image in images], [*map(float, range(len(images)))]
    training = TrainingScores([1.0, 2.0], [products[0]] * 2, ["train/1.png", "train/2.png"])
    calibration = Calibration(
        scores, scores, scores, scores, scores, products=shown, images=images, training=training
    )
    schedule.tasks[0].products, schedule.tasks[0].calibration = list(products), calibration
    checkpoint[STATE_KEY]["tasks"] = schedule.state()
    write_checkpoint(checkpoint, path)
    return path


def exclude(path: Path, *names: str, options: Sequence[str] = ()) -> None:
    listed = path.parent / "look.txt"
    listed.write_text("\n".join([*names, "", ""]), encoding="utf-8-sig")
    main(["--ckpt_path", str(path), f"--exclude={listed}", *options])


def test_excluded_images_are_left_out_for_good(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_calibration(learned, tmp_path, "p1")
    exclude(path, "/any/where/p1/1.png", options=["--product=p1"])
    assert "before" in capsys.readouterr().out
    now = read_schedule(path).tasks[0].calibration
    assert now is not None
    assert now.images == ["p1/0.png", "p1/2.png"]
    assert now.scores == now.novelty_distances == [0.0, 2.0]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["p1/1.png"], "excluded: 1 calibration images, 0 training images"),
        (
            ["train/1.png", "train/2.png"],
            "excluded: 0 calibration images, 2 training images (the expert has still learned from "
            "them)",
        ),
    ],
)
def test_what_was_excluded_is_said_and_that_an_expert_stays(
    names: list[str], said: str, learned: tuple[Path, MoLEFlow], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    path = with_calibration(learned, tmp_path, "p1")
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        exclude(path, *names)
    assert caplog.messages == [f"saved: {path}", said]


def test_no_product_of_a_group_loses_all_its_calibration_images(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    path = with_calibration(learned, tmp_path, "p1", "p2")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="no calibration image would be left of p2"):
        exclude(path, *(f"p2/{i}.png" for i in range(3)))
    assert path.read_bytes() == before
    exclude(path, "p2/1.png", "p2/2.png")


@pytest.mark.parametrize(("product", "said"), [("p2", True), ("b", False)])
def test_products_of_a_group_are_told_to_have_one_rate(
    product: str, said: bool, learned: tuple[Path, MoLEFlow], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    path = with_calibration(learned, tmp_path, "p1", "p2")
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        main(["--ckpt_path", str(path), "--false-alarm-rate=0.2", f"--product={product}"])
    shared = "p1, p2 were learned at once and share one expert: the rate of all of them is"
    assert (shared in "\n".join(caplog.messages)) == said
    assert "learned at once with it and share" in " ".join(make_parser().format_help().split())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read --exclude .*: No such file"),
        (b"\xff\xfe\x00", "it is not UTF-8"),
        (b"\n \n", "names no image: write a name or path on each line"),
        (b"x.png\n", "'x.png' is not a calibration image of"),
    ],
)
def test_list_that_names_nothing_to_exclude_changes_nothing(
    content: bytes | None, told: str, learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    path = Path(shutil.copy(learned[0] / "last.ckpt", tmp_path))
    before, listed = path.read_bytes(), tmp_path / "look.txt"
    if content is not None:
        listed.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        main(["--ckpt_path", str(path), f"--exclude={listed}"])
    assert path.read_bytes() == before


def test_table_counts_the_suspects_left_out() -> None:
    scores = [*map(float, range(60)), 5000.0, 6000.0]
    assert "2 suspects left out" in shown(schedule_with(Calibration(scores)))


def test_a_preview_changes_nothing(
    learned: tuple[Path, MoLEFlow], capsys: pytest.CaptureFixture[str]
) -> None:
    path = learned[0] / "last.ckpt"
    before = path.read_bytes()
    main(["--ckpt_path", str(path)])
    assert "1.000%" in capsys.readouterr().out
    assert path.read_bytes() == before
