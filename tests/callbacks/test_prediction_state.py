import csv
from pathlib import Path

from moleflow_pl._internal.schema import SCHEMA
from moleflow_pl.callbacks.prediction_state import (
    finished_rows,
    make_room,
    read_state,
    write_state,
)

REQUEST = {"model": "abc", "images": "in", "boxes": False}


def predictions(folder: Path, complete: bool) -> Path:
    folder.mkdir()
    with (folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], ["a.png"], ["b.png"], ["c.p"]])
    write_state(folder, REQUEST, complete)
    return folder


def test_stopped_predictions_go_on_after_their_last_whole_row(tmp_path: Path) -> None:
    folder = predictions(tmp_path / "predictions", complete=False)
    assert finished_rows(folder, REQUEST) == [["a.png"], ["b.png"]]
    assert finished_rows(folder, {**REQUEST, "model": "other"}) == []


def test_finished_predictions_start_again(tmp_path: Path) -> None:
    assert finished_rows(predictions(tmp_path / "predictions", complete=True), REQUEST) == []
    assert finished_rows(tmp_path / "nothing", REQUEST) == []


def test_predictions_of_another_request_are_moved_aside(tmp_path: Path) -> None:
    folder = predictions(tmp_path / "predictions", complete=True)
    make_room(folder, REQUEST)
    assert folder.exists()
    make_room(folder, {**REQUEST, "images": "other"})
    assert not folder.exists()
    assert (tmp_path / "predictions~1" / "predictions.csv").exists()


def test_state_carries_its_schema(tmp_path: Path) -> None:
    state = read_state(predictions(tmp_path / "predictions", complete=False))
    assert state is not None
    assert state["schema"] == SCHEMA
