from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl.data.image_forms import ImageLike, are_several, as_bytes, as_rgb
from moleflow_pl.errors import DataError

GREY = np.full((4, 6), 100, np.uint8)


def encoded() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        encoded(),
        bytearray(encoded()),
        memoryview(encoded()),
        io.BytesIO(encoded()),
        GREY.astype(">u2") * 257,
        (GREY / 255).astype(">f8"),
        (GREY / 255).astype(np.float16),
        torch.from_numpy(GREY / 255).to(torch.bfloat16),
        torch.from_numpy(GREY / 255).half(),
        torch.from_numpy(GREY / 255).requires_grad_(),
        GREY[::-1, ::-1],
    ],
    ids=str.lower("bytes bytearray view file u2 f8 f2 bfloat16 half grad strided").split(),
)
def test_every_form_of_an_image_gives_its_pixels(image: ImageLike) -> None:
    rgb = as_rgb(image)
    assert rgb.size == (6, 4)
    assert np.abs(np.asarray(rgb).astype(int) - 100).max() <= 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "not an image: give a path, the bytes of a file, .* got NoneType"),
        (3, "got int"),
        ({"a": 1}, "got dict"),
        (b"", "the file is empty"),
        (b"no image", "cannot identify it as one of"),
        (io.StringIO("text"), "in binary mode"),
        (np.zeros((0, 4, 3), np.uint8), "it has no pixels"),
        (torch.zeros(3, 0, 4), "it has no pixels"),
        (np.array("a.png"), "not an image: an array must be"),
        (np.full((4, 4), None), "got object"),
        (np.zeros((4, 4), complex), "got complex128"),
        (torch.zeros(3, 4, 4, device="meta"), "this image cannot be used"),
        (Path(__file__).parent, "is a folder; give the images in it"),
        (str(Path(__file__).parent), "is a folder; give the images in it"),
        (Path("/no/such.png"), "No such file"),
    ],
)
def test_everything_else_is_refused_in_one_sentence(image: ImageLike, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        as_rgb(image)
    assert "\n" not in str(error.value)


class Foreign:
    """An array of some other library."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.ndim, self.shape = array, array.ndim, array.shape

    def __array__(self, *args: object, **options: object) -> np.ndarray:
        return self.array

    def __iter__(self) -> Iterator[Foreign]:
        return map(Foreign, self.array)


def test_an_array_of_another_library_is_an_image_or_a_batch_by_its_dimensions() -> None:
    image = Foreign(np.stack([GREY] * 3, -1))
    assert not are_several(image)
    assert np.asarray(as_rgb(image)).tolist() == image.array.tolist()  # type: ignore[arg-type]
    assert are_several(Foreign(np.zeros((2, 4, 4, 3))))


def test_lists_generators_and_batches_are_several() -> None:
    for several in ([], (), iter([1]), (i for i in "a"), map(str, "a"), np.zeros((1, 2, 2, 3))):
        assert are_several(several)
    for single in ("a", b"a", io.BytesIO(), None, {}, GREY, torch.zeros(3, 2, 2), Path()):
        assert not are_several(single)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 7), np.uint8), r"not an image: .*shape \(4, 4, 7\)"),
        (np.zeros(4, np.uint8), "not an image"),
        (np.full((4, 4), 200.0), r"floats must lie in \[0, 1\], got 200"),
        (np.full((4, 4), np.nan), r"floats must lie in \[0, 1\], got nan"),
        (np.zeros((4, 4), np.int64), "got int64"),
        (Image.new("F", (4, 4)), "floating-point pixels have no known scale"),
        (Image.new("I", (4, 4), 250), "32-bit pixels from 250 to 250 have no known scale: convert"),
    ],
)
def test_what_is_no_image_is_refused_in_words(image: ImageLike, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_rgb(image)


def test_values_become_bytes_without_clipping() -> None:
    assert as_bytes(np.array([[True, False]])).tolist() == [[255, 0]]
    assert as_bytes(np.array([[0, 65535, 257]], np.uint16)).tolist() == [[0, 255, 1]]
    assert as_bytes(np.array([[0.5]])).tolist() == [[128]]
