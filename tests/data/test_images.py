from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl.data.images import ImageLike, as_bytes, as_rgb, read_image, read_mask
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


def test_grey_sixteen_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    array = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    image = read_image(save(tmp_path / "a.png", array), (2, 2))
    assert image[0].tolist() == [[0, 100], [200, 255]]
    assert torch.equal(image[0], image[2])


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


def test_mask_is_one_where_it_is_not_black(tmp_path: Path) -> None:
    mask = read_mask(save(tmp_path / "m.png", np.array([[0, 1, 128, 255]], dtype=np.uint8)))
    assert mask.dtype == torch.uint8
    assert mask.tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 7), np.uint8), r"not an image: .*shape \(4, 4, 7\)"),
        (np.zeros(4, np.uint8), "not an image"),
        (np.full((4, 4), 200.0), r"floats must lie in \[0, 1\], got 200"),
        (np.full((4, 4), np.nan), r"floats must lie in \[0, 1\], got nan"),
        (np.zeros((4, 4), np.int64), "got int64"),
        (Image.new("F", (4, 4)), "floating-point pixels have no known scale"),
    ],
)
def test_what_is_no_image_is_refused_in_words(image: ImageLike, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_rgb(image)


def test_values_become_bytes_without_clipping() -> None:
    assert as_bytes(np.array([[True, False]])).tolist() == [[255, 0]]
    assert as_bytes(np.array([[0, 65535, 257]], np.uint16)).tolist() == [[0, 255, 1]]
    assert as_bytes(np.array([[0.5]])).tolist() == [[128]]
