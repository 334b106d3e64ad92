"""Images as they come in."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from moleflow_pl._internal.printable import cell
from moleflow_pl.errors import DataError, OutputError
from moleflow_pl.service.images import ImageStore, client_name


def png(width: int = 4, height: int = 3) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 7).save(file, "PNG")
    return file.getvalue()


def test_a_file_is_kept_as_it_came_under_a_name_of_our_own(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, 100)
    image, form = store.decode(png())
    assert (image.mode, image.size, form) == ("RGB", (4, 3), "PNG")
    place = store.save(png(), form)
    assert store.path(place).read_bytes() == png()  # type: ignore[union-attr]
    assert store.save(png(), form) != place
    store.discard(place)
    assert store.path(place) is None
    assert ImageStore(tmp_path, 100, keep=False).save(png(), form) is None


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    header_alone = png(400, 300)[:60]
    with pytest.raises(DataError, match="400 x 300 pixels, and --max-pixels allows 100"):
        ImageStore(tmp_path, 100).decode(header_alone)


@pytest.mark.parametrize("content", [b"", b"text", png()[:-30], b"\xff\xd8\xff\xe0" + bytes(30)])
def test_what_is_no_whole_image_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError):
        ImageStore(tmp_path, 100).decode(content)


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        ImageStore(tmp_path / "file", 100).save(png(), "PNG")


def test_a_clients_name_is_its_last_part_and_any_database_takes_it() -> None:
    assert client_name("../../a/b\0.png") == "b.png"
    assert client_name("\udcff.png").encode()
    assert len(client_name("x" * 1000)) == 255


def test_names_that_are_not_utf8_stay_apart_and_are_shown_as_predict_shows_them() -> None:
    names = [os.fsdecode(name) for name in (b"\xfe.png", b"\xff.png")]
    assert [client_name(name) for name in names] == [r"\udcfe.png", r"\udcff.png"]
    assert [client_name(name) for name in names] == [cell(name) for name in names]
    assert len(client_name("\udcff" * 1000)) == 255
