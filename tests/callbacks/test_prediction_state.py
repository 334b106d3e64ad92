import csv
import json
from pathlib import Path

import pytest

from moleflow_pl._internal.schema import SCHEMA
from moleflow_pl.callbacks.prediction_state import (
    EarlierPredictions,
    make_room,
    read_earlier,
    seal_of,
    write_state,
)
from moleflow_pl.data.batches import Identity
from moleflow_pl.errors import OutputError

REQUEST = {"model": "abc", "images": "/in", "boxes": False}


def predictions(folder: Path, complete: bool) -> Path:
    folder.mkdir()
    rows, box = [["a.png", 1], ["b.png", 2], ["c.p"]], ["a.png", 3, 4]
    images = [Identity(f"/{name}.png", 5, 7, "x") for name in "abc"]
    seals = [seal_of(images[0], rows[0], [box]), seal_of(images[1], rows[1], []), "…"]
    write(folder / "predictions.csv", ["path", "score"], *rows)
    write(folder / "boxes.csv", ["path", "left", "top"], box)
    write(folder / "images.csv", [*Identity._fields, "seal"],
          *([*image, seal] for image, seal in zip(images, seals, strict=True)))  # fmt: skip
    write_state(folder, REQUEST, complete)
    return folder


def write(path: Path, *rows: list) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_stopped_predictions_go_on_after_their_last_whole_row(tmp_path: Path) -> None:
    earlier = read_earlier(predictions(tmp_path / "predictions", complete=False), REQUEST)
    assert earlier.rows == {"/a.png": ["a.png", "1"], "/b.png": ["b.png", "2"]}
    assert earlier.images["/b.png"] == ("/b.png", 5, 7, "x")
    assert earlier.reason is None
    assert read_earlier(tmp_path / "nothing", REQUEST).rows == {}


def test_finished_predictions_are_never_overwritten(tmp_path: Path) -> None:
    folder = predictions(tmp_path / "predictions", complete=True)
    earlier = read_earlier(folder, REQUEST)
    assert earlier.rows == {}
    make_room(folder, earlier)
    assert not folder.exists()
    assert (tmp_path / "predictions~1" / "predictions.csv").exists()


@pytest.mark.parametrize("other", [{"model": "x"}, {"images": "/other"}, {"boxes": True}])
def test_predictions_of_another_request_are_moved_aside(other: dict, tmp_path: Path) -> None:
    folder = predictions(tmp_path / "predictions", complete=False)
    make_room(folder, read_earlier(folder, REQUEST))
    assert folder.exists()
    make_room(folder, read_earlier(folder, {**REQUEST, **other}))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b""),
        ("run.json", b"{"),
        ("run.json", b"[]"),
        ("run.json", b"\xff\xfe"),
        ("run.json", b"[" * 100_000),
        ("run.json", None),
        ("predictions.csv", b"\xff\xfe"),
        ("predictions.csv", b""),
        ("predictions.csv", b"path,score\na\nb\nc\n"),
        ("predictions.csv", b"path\n" + b"x" * 200_000),
        ("images.csv", b"path,size,modified,digest,seal\na,b,c,d,e\na,b,c,d,e\n"),
    ],
)
def test_a_damaged_file_makes_room_in_one_sentence(
    name: str, content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "moleflow_pl")
    folder = predictions(tmp_path / "predictions", complete=False)
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    earlier = read_earlier(folder, REQUEST)
    assert earlier.rows == {}
    make_room(folder, earlier)
    (message,) = caplog.messages
    assert name in message
    assert "is damaged" in message
    assert "\n" not in message
    assert (tmp_path / "predictions~1").is_dir()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("predictions.csv", b"a.png,1\r\n", b"a.png,0\r\n"),
        ("predictions.csv", b"a.png,1\r\n", b""),
        ("predictions.csv", b"a.png,1\r\nb.png,2\r\n", b"b.png,2\r\na.png,1\r\n"),
        ("boxes.csv", b"a.png,3,4\r\n", b"a.png,3,5\r\n"),
        ("boxes.csv", b"a.png,3,4\r\n", b""),
        ("images.csv", b"/a.png,5", b"/b.png,5"),
    ],
)
def test_a_changed_decision_is_not_believed(
    name: str, old: bytes, new: bytes, tmp_path: Path
) -> None:
    folder = predictions(tmp_path / "predictions", complete=False)
    content = (folder / name).read_bytes()
    assert old in content
    (folder / name).write_bytes(content.replace(old, new))
    earlier = read_earlier(folder, REQUEST)
    assert earlier.rows == {}
    assert earlier.reason is not None
    assert "is damaged" in earlier.reason


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match="holds other files than predictions: choose another"):
        read_earlier(tmp_path, REQUEST)


def test_what_a_stop_left_before_the_first_table_is_no_obstacle(tmp_path: Path) -> None:
    for name in ("run.json.part", "images.csv", ".lock"):
        (tmp_path / name).touch()
    assert read_earlier(tmp_path, REQUEST) == EarlierPredictions()


def test_state_carries_its_schema(tmp_path: Path) -> None:
    folder = predictions(tmp_path / "predictions", complete=False)
    assert json.loads((folder / "run.json").read_text("utf-8"))["schema"] == SCHEMA


def test_predictions_of_another_schema_are_moved_aside_and_their_version_is_named(
    tmp_path: Path,
) -> None:
    folder = predictions(tmp_path / "predictions", complete=False)
    state = json.loads((folder / "run.json").read_text("utf-8"))
    (folder / "run.json").write_text(json.dumps({**state, "schema": 99, "version": "9.9"}), "utf-8")
    earlier = read_earlier(folder, REQUEST)
    assert earlier.rows == {}
    assert "schema 99" in (earlier.reason or "")
    assert "use version 9.9, which wrote it" in (earlier.reason or "")


def test_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "predictions").touch()
    with pytest.raises(OutputError, match="cannot write to the folder .*: it is a file; move it"):
        read_earlier(tmp_path / "predictions", REQUEST)
