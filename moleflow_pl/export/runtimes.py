"""Files that score images without this package: write and open."""

from __future__ import annotations

import glob
import importlib.util
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moleflow_pl._internal.files import regular, replacing
from moleflow_pl._internal.hashing import file_hash
from moleflow_pl._internal.printable import printable
from moleflow_pl._internal.schema import stamp
from moleflow_pl.errors import ExportError
from moleflow_pl.export.graph import LABELS, ImageGraph, InspectionGraph
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import TaskSchedule

Format = Literal["onnx", "torch"]
OUTPUTS = ("map", "score", "product", "router_distance", "novelty_ratio", "label")
METADATA = "moleflow"  # key of the file's description, as JSON
LISTS = ("products", "labels")  # of the description, also one name a line under their own keys
EXAMPLE = (2, 40, 60, 3)  # shape of the images that the graph is traced with
DECISION = (
    "unknown_product unless novelty_ratio <= 1, else no_threshold where thresholds[product] is "
    "null, else normal where score <= thresholds[product].score, else anomalous, so that NaN is "
    "never normal; in an anomalous image, the defect is where a region of the map above "
    "thresholds[product].pixel has at least half of its height above it"
)
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
Answers = dict[str, Tensor]
Runner = Callable[[Tensor], Answers]


def check_packages() -> None:
    """Check that the packages for ONNX are installed.

    Raises:
        ExportError: a package is not installed.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX needs {', '.join(missing)}: pip install 'moleflow[export]', or use "
            "--format torch"
        )


def describe(
    graph: InspectionGraph, schedule: TaskSchedule, product: str | None = None
) -> dict[str, Any]:
    """The description in the file: everything that a decision needs besides the outputs.

    Args:
        graph: The graph.
        schedule: The tasks of the model, with their current thresholds.
        product: The one product of the file; within a group it has its own thresholds.
    """
    tasks = [schedule.tasks[task] for task in graph.tasks]
    parts = " + ".join(graph.score.parts)
    return {
        **stamp(),
        "products": [task.name for task in tasks],
        "thresholds": [thresholds_of(task.calibration, product) for task in tasks],
        "decision": DECISION,
        "image_size": list(graph.extractor.image_size),
        "image": "uint8, RGB, (batch, height, width, 3), any height and width: the graph resizes "
        "it to `image_size` as Pillow's bicubic filter does",
        "map": {
            "shape": "(batch, height, width)",
            "unit": "that of the score",
            **graph.map_options,
            "size": list(graph.map_options["size"]),
        },
        "score": f"(batch,), {parts}: higher is more anomalous, no fixed range",
        "product": "(batch,), index into `products`",
        "router_distance": f"(batch,), to that product, {graph.router.distance}",
        "novelty_ratio": "(batch,), above 1 for an image that shows none of the products; 0 near a "
        "product whose limit is infinite, infinite where no limit is known",
        "labels": list(LABELS),
        "label": "(batch,), index into `labels`, as `decision` says",
    }


def thresholds_of(calibration: Calibration | None, product: str | None) -> dict[str, Any] | None:
    """Thresholds of a task or product for the description; None without calibration images."""
    if calibration is None:
        return None
    calibration = calibration if product is None else calibration.for_product(product)
    score = calibration.score_threshold
    return {
        "score": score.value,
        "pixel": calibration.pixel_threshold,
        "false_alarm_rate": score.rate,
        "images": score.images,
        "extrapolated": score.extrapolated,
    }


def write(graph: InspectionGraph, path: Path, kind: Format, about: dict[str, Any]) -> None:
    """Write a graph for any number and size of images, and checksums.

    The format is ONNX, or that of `torch.export.load`.
    """
    limits = [math.nan if entry is None else entry["score"] for entry in about["thresholds"]]
    whole = ImageGraph(graph, limits)
    example = torch.zeros(EXAMPLE, dtype=torch.uint8)
    with torch.no_grad():
        # position and router compute and cache tensors on their first call, outside the graph
        whole(example)
        sizes = {i: torch.export.Dim(name) for i, name in enumerate(("batch", "height", "width"))}
        program = torch.export.export(whole, (example,), dynamic_shapes=(sizes,), strict=False)
    if kind == "torch":
        buffer = io.BytesIO()  # torch's own writer hides disk errors
        torch.export.save(program, buffer, extra_files={f"{METADATA}.json": json.dumps(about)})
        path.write_bytes(buffer.getbuffer())
    else:
        onnx_program = torch.onnx.export(
            program, input_names=["image"], output_names=list(OUTPUTS), dynamo=True, verbose=False
        )
        assert onnx_program is not None
        lists = {f"{METADATA}.{name}": "\n".join(map(printable, about[name])) for name in LISTS}
        onnx_program.model.metadata_props.update({METADATA: json.dumps(about), **lists})
        onnx_program.save(path)
    write_sums(path)


def sums_of(path: Path) -> Path:
    """The checksum file of an exported file, for `sha256sum -c`."""
    return path.with_name(f"{path.name}.sha256")


def write_sums(path: Path) -> None:
    """Write the SHA-256 of an exported file, and of a separate file of large weights."""
    files = [path, *path.parent.glob(f"{glob.escape(path.name)}.data")]
    lines = "".join(f"{file_hash(file)}  {file.name}\n" for file in files)
    with replacing(sums_of(path), "wb") as sums:
        sums.write(os.fsencode(lines))  # a name need not be UTF-8


def require_sums(path: Path) -> None:
    """Check an exported file, and its file of weights, against their checksums.

    Raises:
        ExportError: a file has changed, or there are no checksums.
    """
    try:
        lines = os.fsdecode(regular(sums_of(path)).read_bytes()).splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        wrong = [name for name in sums if file_hash(path.with_name(name)) != sums[name]]
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{path} cannot be checked by {sums_of(path).name} ({error}): export again"
        ) from error
    if wrong or path.name not in sums:
        raise ExportError(f"{wrong or path} is not what {sums_of(path)} says: export again")


def open_file(path: Path, kind: Format) -> Runner:
    """Open a file in its runtime, onnxruntime or torch, on the CPU.

    Raises:
        ExportError: the file has changed since it was written.
    """
    require_sums(path)
    if kind == "torch":
        module = torch.export.load(regular(path)).module()

        def run_torch(images: Tensor) -> Answers:
            with torch.no_grad():
                return dict(zip(OUTPUTS, module(images), strict=True))

        return run_torch
    import onnxruntime

    session = onnxruntime.InferenceSession(regular(path), providers=["CPUExecutionProvider"])

    def run_onnx(images: Tensor) -> Answers:
        outputs = session.run(list(OUTPUTS), {"image": images.numpy()})
        return {name: torch.from_numpy(x) for name, x in zip(OUTPUTS, outputs, strict=True)}

    return run_onnx
