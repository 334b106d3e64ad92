import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moleflow_pl.data.images import read_image, to_rgb, to_tensor
from moleflow_pl.data.integrity import Finding, ImageCheck, check_all, check_image, describe
from moleflow_pl.data.layouts.base import ImageRecord, images_in
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.errors import DataError
from tests.helpers.image_corpus import GREY, IGNORED, READABLE, SIZE, UNREADABLE, flat, rotated

TARGET = (8, 12)


def test_the_corpus_has_at_least_sixty_files_that_are_bad() -> None:
    assert len(UNREADABLE) >= 60
    assert len(READABLE) >= 50


@pytest.mark.parametrize("name", READABLE)
def test_what_can_be_read_is_read_right(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    READABLE[name](path)
    assert flaw_of(ImageRecord(path, "p")) is None
    image = read_image(path, TARGET).numpy()
    assert image.shape == (3, *TARGET)
    if " 1." in name:
        assert set(np.unique(image)) <= {0, 255} or image.mean() == pytest.approx(GREY, abs=15)
    else:
        assert np.abs(image.astype(int) - GREY).max() <= 2


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_reported_with_the_reason(name: str, tmp_path: Path) -> None:
    make, reason = UNREADABLE[name]
    path = tmp_path / name
    make(path)
    flaw = flaw_of(ImageRecord(path, "p"))
    assert flaw is not None
    assert reason in flaw
    with pytest.raises(DataError, match="cannot read the image"):
        read_image(path, TARGET)


def test_files_that_are_no_images_are_not_looked_at(tmp_path: Path) -> None:
    for name in IGNORED:
        (tmp_path / name).touch()
    (tmp_path / ".hidden").mkdir()
    flat("RGB").save(tmp_path / "a.png")
    assert images_in(tmp_path) == [tmp_path / "a.png"]


def test_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    good = tmp_path / "a" / "train" / "good"
    good.mkdir(parents=True)
    flat("RGB").save(good / "a.png")
    for name in ("again", "self"):
        (tmp_path / "a" / "test").mkdir(exist_ok=True)
        link = tmp_path / "a" / "test" / name
        link.symlink_to(tmp_path / "a" / "test" if name == "again" else link)
    assert [record.path for record in MVTecLayout(tmp_path).train("a")] == [good / "a.png"]
    assert MVTecLayout(tmp_path).test("a") == []


def flaw_of(record: ImageRecord) -> str | None:
    return check_image(record).flaw


def record_with_mask(folder: Path, mask: Image.Image | None, turned: bool = False) -> ImageRecord:
    image, place = folder / "i.png", folder / "m.png"
    (rotated("PNG", 6) if turned else flat("RGB").save)(image)
    if mask is not None:
        mask.save(place)
    return ImageRecord(image, "p", "hole", None if mask is None else place, True, place)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16"])
def test_mask_of_any_mode_and_the_images_size_is_taken(mode: str, tmp_path: Path) -> None:
    assert flaw_of(record_with_mask(tmp_path, flat(mode))) is None


def test_mask_is_compared_with_the_image_as_it_is_turned(tmp_path: Path) -> None:
    assert flaw_of(record_with_mask(tmp_path, flat("L", (8, 12)), turned=True)) is None
    flaw = flaw_of(record_with_mask(tmp_path, flat("L"), turned=True))
    assert flaw is not None
    assert "has 12 x 8 pixels, the image 8 x 12" in flaw


def test_missing_and_broken_masks_are_reported(tmp_path: Path) -> None:
    assert "its mask is missing: " in str(flaw_of(record_with_mask(tmp_path, None)))
    record = record_with_mask(tmp_path, flat("L"))
    assert record.mask is not None
    record.mask.write_bytes(record.mask.read_bytes()[:40])
    assert "cannot read the image" in str(flaw_of(record))
    assert "m.png" in str(flaw_of(record))


@pytest.mark.parametrize(("value", "doubt"), [(0, "is empty"), (255, "is full")])
def test_a_mask_that_marks_nothing_or_everything_is_named_and_used(
    value: int, doubt: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record, check = record_with_mask(tmp_path, Image.new("L", SIZE, value)), ImageCheck("stop")
    check.check([record])
    assert "1 masks look wrong, but are used:" in caplog.text
    assert f"m.png {doubt}" in caplog.text
    assert check.usable([record]) == [record]


def test_of_many_doubtful_masks_some_are_named() -> None:
    text = describe({Path(f"{i:02d}.png"): "is lossy" for i in range(25)}, "25 masks:", 20)
    assert text.count("is lossy") == 20
    assert text.endswith("… and 5 more")


def records_of(folder: Path) -> list[ImageRecord]:
    for name in ("good.png", "bad.png", "worse.png"):
        flat("RGB").save(folder / name)
    (folder / "bad.png").write_bytes(b"")
    (folder / "worse.png").write_bytes(b"no image")
    return [ImageRecord(path, "p") for path in sorted(folder.iterdir())]


def test_all_flaws_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 of 3 images cannot be used") as error:
        ImageCheck("stop").check(records_of(tmp_path))
    lines = str(error.value).splitlines()
    assert lines[1] == f"  {tmp_path / 'bad.png'}: the file is empty"
    assert lines[2].startswith(f"  {tmp_path / 'worse.png'}: cannot identify")


def test_skipped_images_are_reported_counted_and_checked_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, check = records_of(tmp_path), ImageCheck("skip")
    looks: list[int] = []

    def counting(records: list[ImageRecord]) -> dict[Path, Finding]:
        looks.append(len(records))
        return check_all(records)

    monkeypatch.setattr("moleflow_pl.data.integrity.check_all", counting)
    assert check.check(records)
    assert not check.check([*records, ImageRecord(tmp_path / "good.png", "p")])
    assert looks == [3]
    assert "2 of 3 images cannot be used" in caplog.text
    assert [record.path.name for record in check.usable(records)] == ["good.png"]


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from(["1", "L", "P", "RGB", "RGBA", "I;16"])
)
@settings(max_examples=80)
def test_every_shape_comes_to_the_size_asked_for(width: int, height: int, mode: str) -> None:
    buffer = io.BytesIO()
    flat(mode, (width, height)).save(buffer, "PNG")
    with Image.open(buffer) as image:
        tensor = to_tensor(to_rgb(image), TARGET)
    assert tensor.shape == (3, *TARGET)
    if mode != "1":
        assert (tensor.int() - GREY).abs().max() <= 1
