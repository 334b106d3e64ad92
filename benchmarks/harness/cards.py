"""A device, its models, its time and memory, and a session that survives failures.

For `benchmarks.gpu`.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.report import Report, Row, about
from moleflow_pl import MoLEFlow
from moleflow_pl.errors import is_out_of_memory
from moleflow_pl.metrics.image import auroc

FAILED = float("nan")  # misses every limit
STRIPES, DEFECT = 8, 6  # width of stripes and side of defects, in pixels of an image of 64
LIMIT_ROUNDS = 5


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run.

    Attributes:
        model: Arguments of `MoLEFlow`, but the size of the images.
        cnn: A convolutional backbone of timm.
        sides: Sides of the images in pixels.
        batches: Images at once.
        images: Training images of each product, and test images of each kind.
        epochs: Epochs of a product.
        seconds: Duration of a speed measurement.
        matrix: Side of the matrices whose product measures the card's peak.
    """

    model: Mapping[str, Any]
    cnn: str
    sides: Sequence[int]
    batches: Sequence[int]
    images: int
    epochs: int
    seconds: float
    matrix: int


FULL = Sizes(
    model={
        "backbone": "vit_small_patch14_dinov2", "layers": [[4, 5], [6, 7], [8, 9]],
        "score": ["depths", "groups"], "backbone_weights": "random",
    },
    cnn="tf_efficientnet_lite0", sides=(224, 392, 518), batches=(1, 4, 16, 64, 256), images=64,
    epochs=5, seconds=1.0, matrix=8192,
)  # fmt: skip
SMALL = Sizes(
    model={
        "backbone": "test_vit", "layers": [0, 1], "backbone_weights": "random",
        "coupling_layers": 2, "lora_rank": 2, "score": ["norm"],
    },
    cnn="test_efficientnet", sides=(64,), batches=(1, 2), images=6, epochs=2, seconds=0.0,
    matrix=64,
)  # fmt: skip


@dataclass
class Card:
    """The device that is measured.

    Attributes:
        device: The device.
        sizes: Sizes of a run.
        folder: Folder for runs and images.
        products: Names of the synthetic products.
    """

    device: torch.device
    sizes: Sizes
    folder: Path
    products: tuple[str, ...] = ("first", "second")
    _limits: dict[torch.dtype, float] = field(default_factory=dict)

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def accelerator(self) -> str:
        """Its name for Lightning."""
        return "gpu" if self.is_cuda else "cpu"

    def wait(self) -> None:
        """Wait until the device is done."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def model(self, side: int, **options: Any) -> MoLEFlow:
        """A new model, from torch's seed 0."""
        torch.manual_seed(0)
        return MoLEFlow(**{**self.sizes.model, "image_size": side, **options})

    def per_second(self, work: Callable[[], Any]) -> float:
        """How often a piece of work is done in a second, warmed up."""
        work()
        self.wait()
        count, started = 0, time.perf_counter()
        while count < 1 or time.perf_counter() - started < self.sizes.seconds:
            work()
            count += 1
            if count % 4 == 0:
                self.wait()
        self.wait()
        return count / (time.perf_counter() - started)

    def peak_mb(self, work: Callable[[], Any]) -> float | None:
        """Peak GPU memory of a piece of work, in MiB; None on a CPU."""
        if not self.is_cuda:
            work()
            return None
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated() / 2**20

    def limit(self, dtype: torch.dtype) -> float:
        """Peak operations per second, measured by a large matrix product."""
        if dtype not in self._limits:
            side = self.sizes.matrix
            a, b = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
            rates = [self.per_second(lambda: a @ b) for _ in range(LIMIT_ROUNDS)]
            self._limits[dtype] = 2 * side**3 * max(rates)
        return self._limits[dtype]


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of a piece of work, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def draw_products(root: Path, card: Card, side: int = 64) -> None:
    """Write images of noisy stripes; defects are squares of increasing contrast."""
    generator, count = np.random.default_rng(0), card.sizes.images
    edge = side * DEFECT // 64

    def save(number: int, place: str, index: int, contrast: float) -> None:
        rows = 90 + 50 * (np.arange(side) // (STRIPES * side // 64 // (1 + number)) % 2)
        pixels = np.tile(rows, (side, 1)) + generator.normal(0, 12, (side, side))
        top, left = generator.integers(edge, side - 2 * edge, 2)
        pixels[top : top + edge, left : left + edge] += contrast
        path = root / card.products[number] / place / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
        Image.fromarray(image).save(path)

    for number in range(len(card.products)):
        for index in range(count):
            save(number, "train/good", index, 0.0)
            save(number, "test/good", index, 0.0)
            save(number, "test/square", index, 90.0 * index / count)


def noise(card: Card, count: int, side: int) -> Tensor:
    """Images of noise on the device."""
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=card.device)


def auroc_of(scores: Mapping[str, Sequence[float]]) -> float:
    """Image AUROC of scores of `good` and of `defective` images."""
    values = torch.tensor([*scores["good"], *scores["defective"]], dtype=torch.float64)
    labels = torch.tensor([0] * len(scores["good"]) + [1] * len(scores["defective"]))
    area = auroc(values, labels)
    assert area is not None
    return area


class Session:
    """Runs parts one after another; a failure is recorded, and the next part runs.

    Args:
        report: Receives the figures.
        seconds: Time for all parts; parts that would begin later are left out.
        now: Returns the time in seconds.

    Attributes:
        failures: What failed, by part, with its traceback.
    """

    def __init__(
        self, report: Report, seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.report = report
        self.failures: dict[str, str] = {}
        self._now, self._end = now, now() + seconds

    @property
    def seconds_left(self) -> float:
        """Remaining time."""
        return self._end - self._now()

    def add(self, what: str, value: float | None, unit: str = "", **options: Any) -> None:
        """Add a figure."""
        self.report.add(Row(what, value, unit, **options))

    def run(self, name: str, part: Callable[[], object]) -> bool:
        """Run a part; return whether it finished."""
        if self.seconds_left <= 0:
            self.add(name, None, note="left out: no time left")
            return False
        try:
            part()
        except Exception as error:  # any failure: the next part may work
            if is_out_of_memory(error):
                self.add(name, None, note="out of memory")
                return False
            self.failures[name] = traceback.format_exc()
            text = " ".join(str(error).split())[:120]
            self.add(name, FAILED, least=0, note=f"failed: {type(error).__name__}: {text}")
            return False
        return True

    def write(self, path: Path, more: Mapping[str, Any] | None = None) -> None:
        """Write all figures, failures, the machine, the versions and more facts as JSON."""
        rows = [
            {**asdict(row), "value": None if row.value != row.value else row.value,
             "holds": row.holds}
            for row in self.report.rows
        ]  # fmt: skip
        content = {
            **about(self.report.name), **(more or {}), "rows": rows, "failures": self.failures,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
