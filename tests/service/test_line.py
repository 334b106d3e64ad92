"""The way of an image."""

import asyncio
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import DataError
from moleflow_pl.service.database import Inspection, SeenFile
from moleflow_pl.service.line import Upload
from moleflow_pl.service.recorder import TakenError
from moleflow_pl.service.state import Service
from tests.helpers.service import count, picture, settings_for


def test_rows_of_an_upload_are_written_with_its_inspection_or_not_at_all(
    tmp_path: Path, learned: tuple[Path, MoLEFlow], data_root: Path
) -> None:
    service = Service(settings_for(tmp_path, learned[0]))
    file = {"source": "folder", "path": "a.png", "size": 1, "modified": 1, "when": 1.0}
    upload = Upload(picture(data_root), "a.png", lambda row: [SeenFile(inspection=row, **file)])
    told: list[Inspection] = []
    service.line.recorded.append(told.append)
    (row,) = asyncio.run(service.line.inspect([upload], "folder"))
    assert (row.id, row.image_name, row.source) == (1, "a.png", "folder")
    assert 0 < (row.brightness or 0) < 1
    with pytest.raises(TakenError):
        asyncio.run(service.line.inspect([upload], "folder"))
    assert (count(service.database, Inspection), len(told)) == (1, 1)
    service.line.stop()


def test_what_fails_leaves_no_image_and_no_place_taken(
    tmp_path: Path, learned: tuple[Path, MoLEFlow], data_root: Path
) -> None:
    service = Service(settings_for(tmp_path, learned[0]))
    uploads = [Upload(picture(data_root)), Upload(b"none", "b.png")]
    with pytest.raises(DataError, match=r"b\.png"):
        asyncio.run(service.line.inspect(uploads, "http"))
    assert service.line.taken == 0
    service.line.stop()  # a lane that is busy with the good image drops it when it is done
    assert not [path for path in service.store.folder.rglob("*") if path.is_file()]
