from pathlib import Path
from typing import Any

import pytest
import torch

from moleflow_pl import Predictor
from moleflow_pl.checkpoints.expert_edits import extract
from moleflow_pl.checkpoints.expert_versions import roll_back
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.inference.reviews import (
    PastDecision,
    Review,
    apply,
    export_reviews,
    preview,
    read_reviews,
    reviewed_products,
)
from moleflow_pl.model.restore import load_inspector
from tests.helpers.reviewing import images_of, kept_run, usual_reviews, write_reviews


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return kept_run(tmp_path / "run")


@pytest.fixture
def reviews(tmp_path: Path, data_root: Path) -> list[Review]:
    return read_reviews(write_reviews(tmp_path / "reviews.csv", usual_reviews(data_root)))


def applied(path: Path, reviews: list[Review]) -> dict[str, Any]:
    """A checkpoint with the next version of `b`."""
    assert [task.name for task in apply(path, reviews)] == ["b"]
    return read_checkpoint(path)


def equal(one: dict[str, Any], other: dict[str, Any], name: str) -> bool:
    """Whether an expert is equal to the bit in two checkpoints."""
    ours, theirs = extract(one, name), extract(other, name)
    return (
        ours.task == theirs.task
        and ours.tensors.keys() == theirs.tensors.keys()
        and all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in ours.tensors)
    )


def test_reviews_make_a_new_version_whose_neighbours_are_equal_to_the_bit(
    path: Path, reviews: list[Review]
) -> None:
    before = read_checkpoint(path)
    after = applied(path, reviews)
    assert equal(before, after, "01")
    assert not equal(before, after, "b")
    old, new = extract(before, "b"), extract(after, "b")
    changed = {
        key
        for key in new.tensors
        if new.tensors[key].shape != old.tensors[key].shape
        or not torch.equal(new.tensors[key], old.tensors[key])
    }
    assert changed
    assert all(".banks.*." in key for key in changed)
    assert new.base == old.base
    assert old.task.calibration is not None
    assert new.task.calibration is not None
    assert len(new.task.calibration.scores) == len(old.task.calibration.scores) + 3
    assert new.task.images == old.task.images + 2
    assert new.task.oracle_scores is None  # by the version before


def test_rolled_back_version_is_the_old_one(path: Path, reviews: list[Review]) -> None:
    before = read_checkpoint(path)
    after = applied(path, reviews)
    roll_back(after, "b", None, RunFolder.of(path))
    ours, theirs = extract(before, "b"), extract(after, "b")
    assert ours.task.calibration == theirs.task.calibration
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in ours.tensors)


def test_false_alarms_score_lower_in_the_new_version(
    path: Path, reviews: list[Review], data_root: Path
) -> None:
    alarms = images_of(data_root, "b", "good")[:2]
    before = Predictor(load_inspector(path))(alarms)
    applied(path, reviews)
    after = Predictor(load_inspector(path))(alarms)
    assert all(now.score < then.score for now, then in zip(after, before, strict=True))


def test_preview_lists_what_would_change_and_writes_nothing(
    path: Path, reviews: list[Review], data_root: Path
) -> None:
    content = path.read_bytes()
    inspector = load_inspector(path)
    good = images_of(data_root, "b", "good")
    found = Predictor(inspector)(good)
    past = [
        PastDecision(p, one.product, str(one.label)) for p, one in zip(good, found, strict=True)
    ]
    past += [
        PastDecision(good[0], "b", "unknown_product"),
        PastDecision(Path("gone"), "b", "normal"),
    ]
    told = preview(inspector, reviews, past, seed=0)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    assert (told.compared, told.gone) == (4, 1)
    now = Predictor(inspector)(good)
    others = [p for p, one, new in zip(good, found, now, strict=True) if one.label != new.label]
    assert [change.past.path for change in told.changes] == [*others, good[0]]
    assert (told.images, told.defects, told.found_before) == ({"b": 3}, 3, 2)
    assert 0 <= told.found <= 3
    before, then = told.thresholds["b"]
    calibration = inspector.schedule.tasks[1].calibration
    assert calibration is not None
    assert then == calibration.score_threshold.value != before


def test_recall_is_that_of_the_last_confirmed_defects(path: Path, reviews: list[Review]) -> None:
    told = preview(load_inspector(path), reviews, [], seed=0, products=[], defects=1)
    assert (told.defects, told.found_before) == (1, 0)  # the missed one


def test_products_with_nothing_to_learn_are_left_out(reviews: list[Review], path: Path) -> None:
    assert reviewed_products(reviews) == ["b"]
    with pytest.raises(DataError, match="no good image of '01' among 6 reviews"):
        apply(path, reviews, "01")
    with pytest.raises(DataError, match="no good image among 3 reviews: there is nothing to learn"):
        apply(path, [one for one in reviews if one.defective])


def test_reviews_that_cannot_be_learned_leave_the_checkpoint_alone(
    path: Path, reviews: list[Review]
) -> None:
    content = path.read_bytes()
    unknown = Review(reviews[0].path, "x", "normal", "right")
    with pytest.raises(ConfigError, match="no product 'x'"):
        apply(path, [*reviews, unknown])
    gone = Review(path.parent / "gone.png", "b", "normal", "right")
    with pytest.raises(DataError, match=r"gone\.png"):
        apply(path, [*reviews, gone])
    assert path.read_bytes() == content
    assert not (path.parent / "experts").exists()


def test_export_is_in_the_layout_of_mvtec(tmp_path: Path, reviews: list[Review]) -> None:
    other = Review(reviews[0].path, "01", "normal", "other_product")
    counts = export_reviews([*reviews, other], tmp_path / "out")
    assert counts == {"b/train/good": 2, "b/test/good": 1, "b/test/defective": 3}
    for place, count in counts.items():
        assert len(list((tmp_path / "out" / place).iterdir())) == count
    assert not (tmp_path / "out" / "01").exists()
    copied = sorted((tmp_path / "out" / "b" / "train" / "good").iterdir())
    assert [one.read_bytes() for one in copied] == [one.path.read_bytes() for one in reviews[:2]]


def test_exported_images_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    reviews = []
    for folder in ("monday", "tuesday"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_text(folder)
        reviews.append(Review(tmp_path / folder / "1.png", "a", "normal", "right"))
    export_reviews(reviews, tmp_path / "out")
    written = {one.read_text() for one in (tmp_path / "out" / "a" / "test" / "good").iterdir()}
    assert written == {"monday", "tuesday"}


def test_image_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = Review(tmp_path / "x.png", "a", "normal", "right")
    with pytest.raises(DataError, match=r"no reviewed image at .*x.png \(No such file"):
        export_reviews([gone], tmp_path / "out")


@pytest.mark.parametrize(
    ("label", "verdict", "good", "defective"),
    [
        ("normal", "right", True, False),
        ("anomalous", "right", False, True),
        ("unknown_product", "right", False, False),
        ("anomalous", "false_alarm", True, False),
        ("unknown_product", "false_alarm", True, False),
        ("normal", "missed_defect", False, True),
        ("normal", "other_product", False, False),
    ],
)
def test_what_a_verdict_says_of_an_image(
    label: Any, verdict: Any, good: bool, defective: bool
) -> None:
    review = Review(Path("x"), "a", label, verdict)
    assert (review.good, review.defective) == (good, defective)


def test_last_verdict_on_an_image_counts(tmp_path: Path) -> None:
    rows = [("1.png", "a", "normal", "right"), ("1.png", "a", "normal", "missed_defect")]
    (review,) = read_reviews(write_reviews(tmp_path / "r.csv", rows))
    assert review == Review(tmp_path / "1.png", "a", "normal", "missed_defect")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("1.png", "a", "good", "right"), r"r.csv, line 2: label must be one of .*got 'good'"),
        (("1.png", "a", "normal", "wrong"), r"line 2: verdict must be one of .*got 'wrong'"),
        (("1.png", "a", "normal", "false_alarm"), "a decision 'normal' cannot be a 'false_alarm'"),
        (("1.png", "a", "anomalous", "missed_defect"), "'anomalous' cannot be a 'missed_defect'"),
        (("", "a", "normal", "right"), "path and product are empty or missing"),
        (("1.png",), "path and product are empty or missing"),
    ],
)
def test_contradictory_row_is_refused(row: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read_reviews(write_reviews(tmp_path / "r.csv", [row]))


def test_invalid_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the reviews .*: No such file"):
        read_reviews(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"has no columns \['label', 'path', 'product', 'verdict'"):
        read_reviews(tmp_path / "r.csv")
