"""Files that score images without this package: written, read back, and compared with the model."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moleflow_pl.errors import ExportError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.scoring.functional import anomaly_map
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import TaskSchedule

Format = Literal["onnx", "torch"]
OUTPUTS = ("map", "score", "product", "distance", "novelty")
MEASURED = ("map", "score", "distance", "novelty", "experts")  # by their differences
METADATA = "moleflow"  # under this name a file says what it is, as JSON
DECISION = (
    "unknown_product where novelty > 1, else normal where score <= thresholds[product].score, "
    "else anomalous; a pixel of the map is anomalous above thresholds[product].pixel"
)
NEEDED = ("onnx", "onnxscript", "onnxruntime")
Answers = dict[str, Tensor]
Runner = Callable[[Tensor], Answers]


def check_packages() -> None:
    """Look for what ONNX needs.

    Raises:
        ExportError: a package is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX needs {', '.join(missing)}: pip install 'moleflow[export]', or take "
            "--format torch"
        )


def describe(
    graph: InspectionGraph, schedule: TaskSchedule, product: str | None = None
) -> dict[str, Any]:
    """What a user of the file has to know to decide by it alone; it travels in the file.

    Args:
        graph: The graph.
        schedule: The model's tasks, whose thresholds hold as they are now.
        product: The one product the file is for; of a group, it has thresholds of its own.
    """
    tasks = [schedule.tasks[task] for task in graph.tasks]
    return {
        "products": [task.name for task in tasks],
        "thresholds": [thresholds_of(task.calibration, product) for task in tasks],
        "decision": DECISION,
        "image_size": list(graph.extractor.image_size),
        "image": "uint8, RGB, (batch, 3, height, width), resized by a bicubic filter (Pillow's)",
        "map": {
            "shape": "(batch, height, width)",
            "unit": "that of the score",
            **graph.map_options,
            "size": list(graph.map_options["size"]),
        },
        "score": f"(batch,), {graph.patch_score.name}: higher is more anomalous, no fixed range",
        "product": "(batch,), place in `products`",
        "distance": f"(batch,), the router's to that product, {graph.router.distance}",
        "novelty": "(batch,), above 1 for an image that shows none of the products; always below "
        "where a product has no limit, infinite where none was finished",
    }


def thresholds_of(found: Calibration | None, product: str | None) -> dict[str, Any] | None:
    """A task's or product's thresholds as a file says them; None where nothing was held out."""
    if found is None:
        return None
    found = found if product is None else found.of(product)
    score = found.score_threshold
    return {
        "score": score.value,
        "pixel": found.pixel_threshold.value,
        "false_alarm_rate": score.rate,
        "images": score.images,
        "extrapolated": score.extrapolated,
    }


def write(graph: InspectionGraph, path: Path, kind: Format, about: dict[str, Any]) -> None:
    """Write a graph, whose batches may have any size, as ONNX or for `torch.export.load`."""
    example = torch.zeros(2, 3, *graph.extractor.image_size, dtype=torch.uint8)
    with torch.no_grad():
        # what position and router prepare on their first call is no part of the graph
        graph(example)
        sizes = {"image": {0: torch.export.Dim("batch")}}
        program = torch.export.export(graph, (example,), dynamic_shapes=sizes, strict=False)
    if kind == "torch":
        buffer = io.BytesIO()  # torch's own writer hides what went wrong with the disk
        torch.export.save(program, buffer, extra_files={f"{METADATA}.json": json.dumps(about)})
        path.write_bytes(buffer.getbuffer())
        return
    made = torch.onnx.export(
        program, input_names=["image"], output_names=list(OUTPUTS), dynamo=True, verbose=False
    )
    assert made is not None
    made.model.metadata_props[METADATA] = json.dumps(about)
    made.save(path)


def open_file(path: Path, kind: Format) -> Runner:
    """Open a written file by its own runtime, onnxruntime or torch, on the CPU."""
    if kind == "torch":
        module = torch.export.load(path).module()

        def run_torch(images: Tensor) -> Answers:
            with torch.no_grad():
                return dict(zip(OUTPUTS, module(images), strict=True))

        return run_torch
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run_onnx(images: Tensor) -> Answers:
        found = session.run(list(OUTPUTS), {"image": images.numpy()})
        return {name: torch.from_numpy(one) for name, one in zip(OUTPUTS, found, strict=True)}

    return run_onnx


@torch.no_grad()
def answers(model: Inspector, images: Tensor, graph: InspectionGraph) -> Answers:
    """What the model itself says of images, in the form of the graph's outputs."""
    only = graph.tasks[0] if len(graph.tasks) == 1 else None
    found = model.inspect(model.extractor(images), only)
    column = model.router.columns(found.task)
    limits = torch.tensor([model.schedule.tasks[task].novelty_limit for task in graph.tasks])
    shares = found.novelty_distance[:, graph.columns] / limits
    return {
        "map": anomaly_map(found.patch_scores, **graph.map_options),
        "score": found.score,
        "product": torch.tensor([graph.tasks.index(task) for task in found.task.tolist()]),
        "distance": found.distances[torch.arange(len(column)), column],
        "novelty": shares.nan_to_num(torch.inf, posinf=torch.inf).amin(1),
    }


def difference(found: Answers, expected: Answers) -> dict[str, float]:
    """Largest relative differences of `map`, `score`, `distance` and `novelty`.

    A score may be zero, so map and score are measured by the largest value, without its sign, of
    the image's map; the others are measured by themselves.

    Raises:
        ExportError: an image was taken for another product.

    Example:
        >>> one = {"map": torch.tensor([[[2.0, -4.0]]]), "score": torch.tensor([2.0]),
        ...        "product": torch.tensor([0]), "distance": torch.tensor([8.0]),
        ...        "novelty": torch.tensor([torch.inf])}
        >>> difference({**one, "score": torch.tensor([3.0]), "distance": torch.tensor([6.0])}, one)
        {'map': 0.0, 'score': 0.25, 'distance': 0.25, 'novelty': 0.0}
    """
    wrong = (found["product"] != expected["product"]).nonzero().flatten().tolist()
    if wrong:
        raise ExportError(
            f"images {wrong} of {len(expected['product'])} are taken for another product: "
            f"distances {found['distance'][wrong].tolist()}, the model's "
            f"{expected['distance'][wrong].tolist()}"
        )
    peak = expected["map"].abs().amax((1, 2))
    itself = {name: expected[name] for name in ("distance", "novelty")}
    return {
        name: apart(found[name], expected[name], scale)
        for name, scale in {"map": peak[:, None, None], "score": peak, **itself}.items()
    }


def apart(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    """The largest relative difference; equal values are not apart, infinite ones either."""
    relative = (found - expected).abs() / scale
    return torch.where(found == expected, 0.0, relative).max().item()


@torch.no_grad()
def verify(
    run: Runner, model: Inspector, graph: InspectionGraph, images: Tensor, tolerance: float
) -> dict[str, float]:
    """Compare a file with the model: on all images at once and on one, then expert by expert.

    Images show few products, so every expert of the graph is compared with the model's on the
    features of all of them, whichever they show.

    Returns:
        The largest relative differences, by what differs.

    Raises:
        ExportError: one of them exceeds the tolerance.
    """
    expected = answers(model, images, graph)
    one = {key: value[:1] for key, value in expected.items()}
    trials = [difference(run(images), expected), difference(run(images[:1]), one)]
    features = model.extractor(images)
    for place, task in enumerate(graph.tasks):
        ours = model.patch_scores(features, task)
        theirs = graph.patch_scores(features, torch.full((len(images),), place))
        trials.append({"experts": ((theirs - ours).abs().max() / ours.abs().max()).item()})
    # a difference that is no number must not pass
    above = {k: v for trial in trials for k, v in trial.items() if not v <= tolerance}
    if above:
        raise ExportError(
            f"the file differs from the model by {above}, relative: above {tolerance}"
        )
    return {key: max(trial.get(key, 0.0) for trial in trials) for key in MEASURED}
