import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin, features

from moleflow_pl.data.image_forms import as_rgb
from moleflow_pl.data.images import (
    ImageFile,
    brightness_of,
    read_image,
    readable_formats,
    shrink,
    size_of,
)
from moleflow_pl.data.masks import read_mask
from moleflow_pl.errors import DataError


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_image_comes_as_bytes_at_the_size_asked_for(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = read_image(save(tmp_path / "a.png", array), (20, 30))
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(array).permute(2, 0, 1))
    assert read_image(tmp_path / "a.png", (10, 40)).shape == (3, 10, 40)


@pytest.mark.parametrize("shape", [(90, 20, 3), (20, 90, 3)])
def test_image_is_resized_along_its_width_first_whatever_its_form(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8) * 255
    image = read_image(save(tmp_path / "a.png", array), (30, 30))
    narrow = Image.fromarray(array).resize((30, shape[0]), Image.Resampling.BICUBIC)
    expected = np.array(narrow.resize((30, 30), Image.Resampling.BICUBIC))
    assert torch.equal(image, torch.from_numpy(expected).permute(2, 0, 1))


def test_grey_sixteen_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    array = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    image = read_image(save(tmp_path / "a.png", array), (2, 2))
    assert image[0].tolist() == [[0, 100], [200, 255]]
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize("scale", [1, 257])
def test_32_bit_values_are_refused_whatever_they_are(tmp_path: Path, scale: int) -> None:
    values = (np.arange(251, dtype=np.int32) * scale)[None]
    path = save(tmp_path / "a.tiff", values)
    for read in (lambda: read_image(path, (4, 4)), lambda: size_found(path)):
        with pytest.raises(DataError, match=rf"32-bit pixels from 0 to {250 * scale} have no known "
                           "scale: convert it to 8 or 16 bits"):  # fmt: skip
            read()


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
def test_the_size_found_is_that_of_the_rotated_image(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.new("L", (64, 48)).save(tmp_path / "a", kind, exif=exif)
    assert size_found(tmp_path / "a") == ImageFile.read(tmp_path / "a").rgb().size == (48, 64)


def signed_16_bit(path: Path, array: np.ndarray) -> Path:
    """Save a TIFF of signed 16-bit values, which Pillow reads as 32-bit ones."""
    signed = TiffImagePlugin.ImageFileDirectory_v2()
    signed[TiffImagePlugin.SAMPLEFORMAT] = 2
    signed[0x0112] = 6  # rotated: a rotated copy does not say what the file held
    Image.fromarray(array.astype(np.uint16)).save(path, tiffinfo=signed)
    return path


def test_16_bit_values_that_pillow_holds_in_32_are_scaled(tmp_path: Path) -> None:
    path = signed_16_bit(tmp_path / "a.tiff", np.array([[0, 257 * 100]]))
    with Image.open(path) as image:
        assert image.mode == "I"
    assert read_image(path, (2, 1))[0].flatten().tolist() == [0, 100]
    assert size_found(path) == (1, 2)
    path = signed_16_bit(tmp_path / "b.tiff", np.array([[-1, 2]], np.int16))
    with pytest.raises(DataError, match="pixels from -1 to 2: convert it to values from 0 on"):
        read_image(path, (2, 1))


def test_a_16_bit_png_is_scaled_as_any_pillow_opens_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 257 * 100]], dtype=np.uint16))
    with Image.open(path) as image:
        image.load()
        held = Image.fromarray(np.asarray(image).astype(np.int32))  # as older ones do
        held.format = image.format
    assert np.asarray(as_rgb(held))[0, :, 0].tolist() == [0, 100]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(path)
    assert read_image(path, (4, 4)).min() == 255


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 255]] * 2, dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", (2, 2))[0].tolist() == [[255, 0]] * 2


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot read the image .*broken.png"):
        read_image(path, (4, 4))


def test_truncated_file_is_named(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "half.png", array)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="half.png"):
        read_image(path, (4, 4))


def size_found(path: Path) -> object:
    """The size, as the check of files finds it."""
    return size_of(ImageFile.read(path))


def eps(path: Path) -> None:
    """A PostScript file, for which Pillow would start ghostscript."""
    Image.new("RGB", (4, 4)).save(path, "EPS")


def tiny(path: Path) -> object:
    return read_image(path, (4, 4))


@pytest.mark.parametrize("read", [tiny, read_mask, size_found, as_rgb])
def test_a_drawing_named_like_an_image_starts_no_program(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    path = tmp_path / "drawing.png"
    eps(path)
    with pytest.raises(DataError, match="cannot identify it as one of PNG, JPEG, "):
        read(path)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "PCX", "SGI", "TGA", "DDS", "PDF"])
def test_formats_that_are_not_meant_are_refused(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", kind)
    with pytest.raises(DataError, match="cannot identify it as one of"):
        read_image(tmp_path / "a.png", (4, 4))


def test_images_are_opened_at_one_place() -> None:
    package = Path(__file__).parents[2] / "moleflow_pl"
    opened = {
        path.relative_to(package).as_posix(): path.read_text("utf-8").count("Image.open(")
        for path in package.rglob("*.py")
    }
    # the other is an example in a docstring
    assert {name: count for name, count in opened.items() if count} == {
        "data/images.py": 1, "inference/predictor.py": 1
    }  # fmt: skip


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "a.avif", quality=100)
    assert read_image(tmp_path / "a.avif", (1, 1)).flatten().tolist() == pytest.approx(
        [200, 100, 50], abs=3
    )


def test_heif_that_cannot_be_read_names_the_package(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    message = (
        "cannot" if "HEIF" in readable_formats() else "HEIF need a newer Pillow, or pillow-heif"
    )
    with pytest.raises(DataError, match=message):
        read_image(path, (4, 4))


def test_a_file_that_changes_while_it_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    times = count()
    stat = os.fstat

    def moving(handle: int) -> object:
        found = stat(handle)
        return SimpleNamespace(st_size=found.st_size, st_mtime_ns=next(times))

    monkeypatch.setattr("moleflow_pl.data.images.os.fstat", moving)
    with pytest.raises(DataError, match="a.png: it changed while it was read"):
        read_image(path, (4, 4))


def test_one_read_gives_pixels_and_identity(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    file = ImageFile.read(path)
    path.unlink()
    assert file.rgb().size == (4, 4)
    assert file.digest == ImageFile(path, file.content, 0).digest
    assert file.digest != ImageFile(path, file.content + b"x", 0).digest


def test_the_longer_side_shrinks_to_the_size_asked_for() -> None:
    assert shrink(Image.new("RGB", (400, 100)), 40).size == (40, 10)
    assert shrink(Image.new("RGB", (20, 10)), 40).size == (20, 10)


def test_brightness_is_the_same_of_bytes_and_of_fractions() -> None:
    images = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8)
    expected = images.numpy().mean((1, 2, 3)) / 255
    for form in (images, images / 255):
        np.testing.assert_allclose(brightness_of(form), expected, rtol=1e-5)
