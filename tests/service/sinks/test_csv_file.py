"""A CSV file that grows."""

import csv
import os
from pathlib import Path

import pytest

from moleflow_pl.errors import OutputError
from moleflow_pl.service.records import as_json
from moleflow_pl.service.sinks.csv_file import CsvSink
from tests.helpers.service import an_inspection


def test_each_inspection_is_a_row_and_no_name_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "line" / "line.csv"
    for number, name in enumerate(("=1+1.png", "b\n.png")):
        CsvSink(str(path)).deliver(as_json(an_inspection(id=number, image_name=name, reviews=[])))
    CsvSink(str(path)).deliver({"event": "drift"})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["'=1+1.png", "b\\n.png"]
    assert rows[0]["time"] == "1970-01-01T00:00:01.000+00:00"
    assert (rows[1]["id"], rows[1]["product"], rows[1]["score"]) == ("1", "b", "1.0")


def test_a_file_that_cannot_be_written_is_an_error_and_so_tried_again() -> None:
    with pytest.raises(OutputError, match="/dev/null"):
        CsvSink("/dev/null/line.csv").deliver(as_json(an_inspection(id=1, reviews=[])))


def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="it is not a file but a pipe or a device"):
        CsvSink(str(tmp_path / "pipe"))
