from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl.data.masks import Mask, read_mask

SIDE = 64
PATCH = (slice(8, 24), slice(8, 24))
DEFECT = np.zeros((SIDE, SIDE), bool)
DEFECT[PATCH] = True


def filled(background: object, defect: object, dtype: type = np.uint8) -> np.ndarray:
    """An array of one value, and another in the patch."""
    value = np.asarray(background, dtype)
    array = np.broadcast_to(value, (SIDE, SIDE, *value.shape)).copy()
    array[PATCH] = defect
    return array


def palette(indices: np.ndarray, *colours: int) -> Image.Image:
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours)
    return image


def write(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


@pytest.mark.parametrize(
    "image",
    [
        filled(0, 1),
        filled(0, 255),
        filled(False, True, bool),
        filled(0, 1, np.uint16),
        filled((0, 0, 0), (1, 0, 0)),
        filled((0, 0, 0), (0, 0, 1)),
        filled((255, 255, 255, 0), (255, 255, 255, 255)),
        filled((0, 0, 0, 0), (0, 0, 0, 255)),
        filled((0, 0, 0, 255), (1, 0, 0, 255)),
        filled((0, 0, 0, 0), (200, 0, 0, 255)),
        filled((90, 0), (90, 1)),
        palette(filled(0, 1), 0, 0, 0, 1, 0, 0),
        palette(filled(0, 1), 0, 0, 0, 0, 0, 0),
        palette(filled(0, 2), 0, 0, 0, 0, 0, 0, 5, 5, 5),
        palette(filled(0, 1), 255, 255, 255, 255, 0, 0),
        palette(filled(1, 0), 255, 255, 255, 0, 0, 0),
    ],
    ids=lambda image: "",
)
def test_every_channel_index_or_alpha_above_the_background_counts(
    image: Image.Image | np.ndarray, tmp_path: Path
) -> None:
    mask = read_mask(write(tmp_path / "m.png", image))
    assert mask.pixels.dtype == torch.uint8
    assert np.array_equal(mask.pixels.numpy().astype(bool), DEFECT)
    assert not mask.lossy
    assert mask.doubt is None


@pytest.mark.parametrize(
    ("name", "options", "lossy"),
    [
        ("m.jpg", {"quality": 40}, True),
        ("m.webp", {"quality": 40}, True),
        ("m.webp", {"lossless": True}, False),
        ("m.tif", {"compression": "jpeg"}, True),
        ("m.tif", {"compression": "tiff_lzw"}, False),
        ("m.bmp", {}, False),
    ],
)
def test_a_lossy_mask_counts_from_half_level_on_and_is_named(
    name: str, options: dict[str, object], lossy: bool, tmp_path: Path
) -> None:
    mask = read_mask(write(tmp_path / name, filled(0, 255), **options))
    assert mask.lossy == lossy
    assert np.array_equal(mask.pixels.numpy().astype(bool), DEFECT)
    assert ("lossy compression" in str(mask.doubt)) == lossy


def test_a_lossless_webp_with_alpha_is_known_as_one(tmp_path: Path) -> None:
    image = filled((255, 255, 255, 0), (255, 255, 255, 255))
    mask = read_mask(write(tmp_path / "m.webp", image, lossless=True, exact=True))
    assert not mask.lossy
    assert np.array_equal(mask.pixels.numpy().astype(bool), DEFECT)


def test_an_empty_or_full_mask_is_doubtful() -> None:
    ones = torch.ones(2, 2, dtype=torch.uint8)
    assert "is empty" in str(Mask(0 * ones, lossy=False).doubt)
    assert "is full" in str(Mask(ones, lossy=True).doubt)


def test_a_mask_is_turned_as_its_exif_data_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    mask = read_mask(write(tmp_path / "m.png", np.array([[0, 0], [0, 9]], np.uint8), exif=exif))
    assert mask.pixels.tolist() == [[1, 0], [0, 0]]
