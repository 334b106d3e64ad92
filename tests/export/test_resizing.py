from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image

from moleflow_pl.data.images import to_tensor
from moleflow_pl.export.resizing import Resizing

SIZE = (48, 64)
Run = Callable[[np.ndarray], np.ndarray]


def images(count: int) -> Iterator[np.ndarray]:
    """Images of random sizes, oblong and odd ones too: noise, black and white, edges, constants."""
    draw = np.random.default_rng(0)
    for number in range(count):
        height, width = draw.integers(2, 300, 2)
        rows, columns = np.ogrid[:height, :width]
        image = [
            lambda shape: draw.integers(0, 256, shape),
            lambda shape: draw.integers(0, 2, shape) * 255,
            lambda _: ((rows // 5 + columns // 7) % 2 * 255)[..., None].repeat(3, 2),  # noqa: B023
            lambda shape: np.full(shape, draw.integers(256)),
        ][number % 4]((height, width, 3))
        yield image.astype(np.uint8)


def apart(found: np.ndarray, image: np.ndarray, size: tuple[int, int] = SIZE) -> int:
    """The largest difference from Pillow, in grey levels."""
    expected = to_tensor(Image.fromarray(image), size).numpy()
    assert found.dtype == np.uint8
    return int(np.abs(found.astype(int) - expected).max())


def by_torch(size: tuple[int, int]) -> Run:
    return lambda image: Resizing(size)(torch.from_numpy(image)[None])[0].numpy()


@pytest.mark.parametrize("size", [SIZE, (16, 16), (255, 131)])
def test_images_of_any_size_are_resized_as_by_pillow_to_the_bit(size: tuple[int, int]) -> None:
    run = by_torch(size)
    for image in images(40):
        assert apart(run(image), image, size) == 0, image.shape


def test_an_image_of_the_size_stays_as_it_is() -> None:
    for image in images(4):
        assert apart(by_torch(image.shape[:2])(image), image, image.shape[:2]) == 0


@pytest.mark.parametrize("shape", [(2, 9001), (9001, 3), (1, 1)])
def test_large_and_tiny_images_lose_no_digits(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 2, (*shape, 3), np.uint8) * 255
    assert apart(by_torch(SIZE)(image), image) == 0


def test_each_image_of_a_batch_is_resized_alone() -> None:
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 70, 50, 3), np.uint8))
    resize = Resizing(SIZE)
    assert torch.equal(resize(batch), torch.cat([resize(image[None]) for image in batch]))


@cache
def exported(path: Path) -> Path:
    """The file of the resizing alone."""
    names = ("batch", "height", "width")
    sizes = {place: torch.export.Dim(name) for place, name in enumerate(names)}
    example = (torch.zeros(2, 40, 60, 3, dtype=torch.uint8),)
    program = torch.export.export(Resizing(SIZE), example, dynamic_shapes=(sizes,), strict=False)
    file = torch.onnx.export(program, input_names=["image"], dynamo=True, verbose=False)
    assert file is not None
    file.save(path)
    return path


def by_onnxruntime(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path)
    return lambda image: session.run(None, {"image": image[None]})[0][0]


def by_openvino(path: Path) -> Run:
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: np.array(compiled(image[None])[0][0])


@pytest.mark.slow  # `test_verification.py` gives a whole file an image of another size
# OpenVINO has no float64
@pytest.mark.parametrize(("runtime", "most"), [(by_onnxruntime, 0), (by_openvino, 1)])
def test_runtimes_resize_as_pillow(
    runtime: Callable[[Path], Run], most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = runtime(exported(tmp_path_factory.getbasetemp() / "resizing.onnx"))
    for image in images(24):
        assert apart(run(image), image) <= most, image.shape
