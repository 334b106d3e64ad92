import logging
from pathlib import Path

import pytest

from moleflow_pl.checkpoints.expert_edits import learned_schedule
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.cli import experts
from moleflow_pl.cli.review import main
from moleflow_pl.errors import ConfigError, DataError, OutputError
from moleflow_pl.service.database import Review
from moleflow_pl.service.settings import Settings
from tests.helpers.reviewing import images_of, kept_run, usual_reviews, write_reviews
from tests.helpers.service import an_inspection


@pytest.fixture
def words(tmp_path: Path, data_root: Path) -> list[str]:
    """The model and its reviews, as options."""
    table = write_reviews(tmp_path / "reviews.csv", usual_reviews(data_root))
    return ["--ckpt_path", str(kept_run(tmp_path / "run")), "--reviews", str(table)]


def calibrated(path: Path) -> dict[str, int]:
    """Calibration images of each product."""
    tasks = learned_schedule(read_checkpoint(path)).tasks
    return {task.name: len(task.calibration.scores) for task in tasks if task.calibration}


def test_reviews_are_applied_and_taken_back(
    words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run" / "last.ckpt"
    before = calibrated(path)
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        main(["apply", *words])
    assert calibrated(path) == {**before, "b": before["b"] + 3}
    said = "\n".join(caplog.messages)
    assert f"saved: {path}" in said
    assert f"to restore the old one: moleflow experts rollback {path.parent} b" in said
    experts.main(["rollback", "b", "--ckpt_path", str(path)])
    assert calibrated(path) == before


def test_preview_names_the_decisions_that_would_change(
    words: list[str],
    tmp_path: Path,
    data_root: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = (tmp_path / "run" / "last.ckpt").read_bytes()
    (image,) = images_of(data_root, "b", "square")[:1]
    past = tmp_path / "past.csv"
    past.write_text(f"path,product,label\n{image},c,normal\n")
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        main(["preview", *words, "--past", str(past)])
    said = "\n".join(caplog.messages)
    assert "1 of 1 past decisions would change" in said
    assert f"  {image}: normal -> " in said
    assert "of the last 3 confirmed defects, 3 would be found" in said
    assert "good images added" in capsys.readouterr().out
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == content


def test_reviewed_images_are_exported_without_a_model(
    words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        main(["export", *words[2:], "--output", str(tmp_path / "out")])
    assert f"{tmp_path / 'out' / 'b' / 'test' / 'defective'}: 3 images" in caplog.messages


def test_reviews_of_a_service_are_exported(
    tmp_path: Path, data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(str(tmp_path / "run"))
    database = settings.open_database()
    (image,) = images_of(data_root, "b", "square")[:1]
    place = settings.open_store(database).save(image.read_bytes(), "PNG")
    review = Review(verdict="right", who="Ann", when=1.0)
    with database.writing() as session:
        session.add(an_inspection(label="anomalous", image_path=place, reviews=[review]))
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        main(["export", "--service", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    assert f"{tmp_path / 'out' / 'b' / 'test' / 'defective'}: 1 images" in caplog.messages
    copies = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in copies] == [image.read_bytes()]


def test_an_export_needs_one_source_of_reviews_that_is_there(tmp_path: Path) -> None:
    for words in ([], ["--reviews", "a.csv", "--service", "run"]):
        with pytest.raises(ConfigError, match="--reviews FILE, or --service RUN"):
            main(["export", *words, "--output", "out"])
    with pytest.raises(DataError, match=r"no record of a service at .*line.sqlite"):
        main(["export", "--service", str(tmp_path), "--output", "out"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [["--product", "01"], []])
def test_reviews_with_nothing_to_learn_are_refused(
    more: list[str], words: list[str], tmp_path: Path, data_root: Path
) -> None:
    if not more:
        write_reviews(tmp_path / "reviews.csv", usual_reviews(data_root)[3:])
    with pytest.raises(DataError, match="no good image.* reviews: there is nothing to learn"):
        main(["apply", *words, *more])


@pytest.mark.parametrize("text", [None, "a,b\n1,2\n"])
def test_past_decisions_that_are_none_are_named(
    text: str | None, words: list[str], tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "past.csv").write_text(text)
    with pytest.raises(DataError, match=r"cannot read the past decisions .*past.csv"):
        main(["preview", *words, "--past", str(tmp_path / "past.csv")])


WHOLE = "path,product,label,verdict,note\na.png,b,normal,right,x\n"
DAMAGED = {
    "empty": "",
    "zeros": "\0" * 4096,
    "cut row": WHOLE + "b.png",
    "zeros at the end": WHOLE + "\0" * 4096,
    "long cell": f"{WHOLE}b.png,b,normal,right,{'x' * 200_000}\n",
    "long header": "x" * 200_000,
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_damaged_tables_are_refused_in_one_sentence_that_says_what_to_give(
    text: str, words: list[str], tmp_path: Path
) -> None:
    table = tmp_path / "run" / "predictions" / "predictions.csv"
    for damaged, more, told in (
        (tmp_path / "past.csv", ["--past", str(tmp_path / "past.csv")], "--past"),
        (table, [], "--past"),
        (tmp_path / "reviews.csv", [], "product"),
    ):
        damaged.parent.mkdir(exist_ok=True)
        damaged.write_text(text)
        with pytest.raises(DataError) as error:
            main(["preview", *words, *more])
        said = str(error.value)
        assert str(damaged) in said
        assert told in said
        assert "\n" not in said


def test_file_in_the_place_of_the_exported_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="out: it is a file; move it away"):
        main(["export", f"--reviews={tmp_path / 'none.csv'}", f"--output={tmp_path / 'out'}"])
