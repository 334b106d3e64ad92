"""Convert an image from any form that programs use to 8-bit RGB."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from moleflow_pl._internal.printable import printable
from moleflow_pl.data.images import deep_to_bytes, open_content, read_rgb, upright_rgb
from moleflow_pl.errors import DataError

ImageLike = Image.Image | np.ndarray | Tensor | str | Path | bytes | IO[bytes]
FORMS = "a path, the bytes of a file, an open file, a PIL image, an array or a tensor"
CHANNELS = (1, 3, 4)
Channels = Literal["rgb", "bgr"]
BATCH_DIMS = 4  # of an array or a tensor that holds several images


def are_several(images: Any) -> bool:
    """Whether an object holds several images: a list, a generator, or a batched array.

    Example:
        >>> are_several([]), are_several(np.zeros((2, 4, 4, 3))), are_several(b"")
        (True, True, False)
    """
    if hasattr(images, "__array__") and hasattr(images, "ndim"):  # numpy, torch or others
        return images.ndim == BATCH_DIMS
    single = (str, bytes, bytearray, memoryview, io.IOBase, Mapping, Image.Image)
    return isinstance(images, Iterable) and not isinstance(images, single) and not is_file(images)


def is_file(image: Any) -> bool:
    """Whether an object is an open file."""
    return callable(getattr(image, "read", None))


def as_rgb(image: ImageLike, channels: Channels = "rgb") -> Image.Image:
    """Convert an image in any accepted form to 8-bit RGB.

    Args:
        image: The image.
        channels: Channel order of arrays and tensors: `rgb`, or `bgr` as in OpenCV.

    Raises:
        DataError: the object is not an image.

    Example:
        >>> as_rgb(np.zeros((4, 5, 3), np.uint8)).size
        (5, 4)
    """
    if isinstance(image, (str, Path)):
        # os.path: a name that is too long for the disk, or of an unknown user, is no folder either
        path = Path(os.path.expanduser(image))
        if os.path.isdir(path):
            raise DataError(f"not an image: {printable(path)} is a folder; give the images in it")
        return read_rgb(path)
    if isinstance(image, Image.Image):
        return as_data_error(lambda: upright_rgb(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decoded(bytes(image))
    if is_file(image):
        return decoded(as_data_error(image.read))  # type: ignore[union-attr]
    if isinstance(image, Tensor):
        return array_as_rgb(array_of(image), image, channels)
    if isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        return array_as_rgb(as_data_error(lambda: np.asarray(image)), image, channels)
    raise DataError(f"not an image: give {FORMS}, got {type(image).__name__}")


def as_data_error(make: Any) -> Any:
    """Call a function that decodes an image; any failure becomes a DataError.

    Raises:
        DataError: the call fails.
    """
    try:
        return make()
    except DataError:
        raise
    except Exception as error:  # a damaged image can break a decoder in any way
        reason = str(error) or type(error).__name__
        raise DataError(f"this image cannot be used: {reason}") from error


def decoded(content: bytes) -> Image.Image:
    """Decode the bytes of an image file.

    Raises:
        DataError: the bytes are not an image.
    """
    if not isinstance(content, bytes):
        raise DataError(
            "not an image: the file must be opened in binary mode, it gave "
            f"{type(content).__name__}"
        )
    if not content:
        raise DataError("this image cannot be used: the file is empty")

    def decode() -> Image.Image:
        with open_content(content) as image:
            return upright_rgb(image)

    return as_data_error(decode)


def array_of(image: Tensor) -> np.ndarray:
    """A tensor (C, H, W) or (H, W) as an array with its channels last."""
    # numpy has no bfloat16
    values = image.detach().float() if image.is_floating_point() else image.detach()
    array = as_data_error(lambda: values.cpu().resolve_conj().resolve_neg().to_dense().numpy())
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def array_as_rgb(array: np.ndarray, image: Any, channels: Channels = "rgb") -> Image.Image:
    """Convert an array (H, W) or (H, W, C) to 8-bit RGB.

    Raises:
        DataError: shape, size or values are not those of an image.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS):
        raise DataError(
            "not an image: an array must be (H, W) or (H, W, C), a tensor (C, H, W), with C one "
            f"of {CHANNELS}, got {type(image).__name__} of shape {tuple(np.shape(image))}"
        )
    if not array.size:
        raise DataError(f"not an image: it has no pixels, its shape is {tuple(np.shape(image))}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if channels == "bgr" and array.ndim == 3:
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    return Image.fromarray(as_bytes(array)).convert("RGB")


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Convert the values of an image to 8 bits.

    Raises:
        DataError: floats outside [0, 1], or an unsupported dtype.

    Example:
        >>> as_bytes(np.array([[0.0, 1.0]])).tolist()
        [[0, 255]]
    """
    kind = array.dtype.newbyteorder("=")  # in either byte order
    if kind == np.uint8:
        return np.ascontiguousarray(array)
    if kind == np.bool_:
        return array.astype(np.uint8) * 255
    if kind == np.uint16:
        return deep_to_bytes(array)
    if not np.issubdtype(kind, np.floating):
        raise DataError(f"an image must hold uint8, uint16, bool or floats in [0, 1], got {kind}")
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise DataError(
            f"an image of floats must lie in [0, 1], got {array.min()} to {array.max()}: scale it, "
            "or give uint8"
        )
    return np.round(array * 255).astype(np.uint8)
