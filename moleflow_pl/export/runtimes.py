"""Files that score images without this package: write, open, and verify against the model."""

from __future__ import annotations

import glob
import importlib.util
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moleflow_pl._internal.files import regular, write_text
from moleflow_pl._internal.hashing import file_hash
from moleflow_pl._internal.schema import stamp
from moleflow_pl._internal.steps import step
from moleflow_pl.errors import ExportError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.scoring.functional import anomaly_map
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import TaskSchedule

Format = Literal["onnx", "torch"]
OUTPUTS = ("map", "score", "product", "distance", "novelty")
MEASURED = ("map", "score", "distance", "novelty", "experts")  # compared with a tolerance
METADATA = "moleflow"  # key of the file's description, as JSON
DECISION = (
    "unknown_product unless novelty <= 1, else normal where score <= thresholds[product].score, "
    "else anomalous, so that NaN is never normal; in an anomalous image, the defect is where a "
    "region of the map above thresholds[product].pixel has at least half of its height above it"
)
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ROUNDING = 1e-6  # of features, from one runtime's backbone to another's, relative
EXPLAINED = 10.0  # rounding explains differences up to this multiple of its own effect
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
        "image": "uint8, RGB, (batch, 3, height, width), resized by a bicubic filter (Pillow's)",
        "map": {
            "shape": "(batch, height, width)",
            "unit": "that of the score",
            **graph.map_options,
            "size": list(graph.map_options["size"]),
        },
        "score": f"(batch,), {parts}: higher is more anomalous, no fixed range",
        "product": "(batch,), index into `products`",
        "distance": f"(batch,), the router's to that product, {graph.router.distance}",
        "novelty": "(batch,), above 1 for an image that shows none of the products; 0 near a "
        "product whose limit is infinite, infinite where no limit is known",
    }


def thresholds_of(calibration: Calibration | None, product: str | None) -> dict[str, Any] | None:
    """Thresholds of a task or product for the description; None without calibration images."""
    if calibration is None:
        return None
    calibration = calibration if product is None else calibration.of(product)
    score = calibration.score_threshold
    return {
        "score": score.value,
        "pixel": calibration.pixel_threshold,
        "false_alarm_rate": score.rate,
        "images": score.images,
        "extrapolated": score.extrapolated,
    }


def write(graph: InspectionGraph, path: Path, kind: Format, about: dict[str, Any]) -> None:
    """Write a graph with a dynamic batch size as ONNX or for `torch.export.load`, and checksums."""
    example = torch.zeros(2, 3, *graph.extractor.image_size, dtype=torch.uint8)
    with torch.no_grad():
        # position and router compute and cache tensors on their first call, outside the graph
        graph(example)
        sizes = {"image": {0: torch.export.Dim("batch")}}
        program = torch.export.export(graph, (example,), dynamic_shapes=sizes, strict=False)
    if kind == "torch":
        buffer = io.BytesIO()  # torch's own writer hides disk errors
        torch.export.save(program, buffer, extra_files={f"{METADATA}.json": json.dumps(about)})
        path.write_bytes(buffer.getbuffer())
    else:
        onnx_program = torch.onnx.export(
            program, input_names=["image"], output_names=list(OUTPUTS), dynamo=True, verbose=False
        )
        assert onnx_program is not None
        onnx_program.model.metadata_props[METADATA] = json.dumps(about)
        onnx_program.save(path)
    write_sums(path)


def sums_of(path: Path) -> Path:
    """The checksum file of an exported file, for `sha256sum -c`."""
    return path.with_name(f"{path.name}.sha256")


def write_sums(path: Path) -> None:
    """Write the SHA-256 of an exported file, and of a separate file of large weights."""
    files = [path, *path.parent.glob(f"{glob.escape(path.name)}.data")]
    write_text(sums_of(path), "".join(f"{file_hash(file)}  {file.name}\n" for file in files))


def require_sums(path: Path) -> None:
    """Check an exported file, and its file of weights, against their checksums.

    Raises:
        ExportError: a file has changed, or there are no checksums.
    """
    try:
        lines = regular(sums_of(path)).read_text(encoding="utf-8").splitlines()
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
        ExportError: it has changed since it was written.
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


@torch.no_grad()
def answers(model: Inspector, images: Tensor, graph: InspectionGraph) -> Answers:
    """The outputs of a graph, computed by the model."""
    return answers_to(model, model.extractor(images), graph)


def answers_to(model: Inspector, features: Tensor, graph: InspectionGraph) -> Answers:
    """As `answers`, from features (B, h, w, W)."""
    only = graph.tasks[0] if len(graph.tasks) == 1 else None
    inspection = model.inspect(features, only)
    column = model.router.columns(inspection.task)
    limits = torch.tensor([model.schedule.tasks[task].novelty_limit for task in graph.tasks])
    ratios = inspection.novelty_distance[:, graph.columns] / limits
    return {
        "map": anomaly_map(inspection.patch_scores, **graph.map_options),
        "score": inspection.score,
        "product": torch.tensor([graph.tasks.index(task) for task in inspection.task.tolist()]),
        "distance": inspection.distances[torch.arange(len(column)), column],
        "novelty": ratios.nan_to_num(torch.inf, posinf=torch.inf).amin(1),
    }


def difference(actual: Answers, expected: Answers) -> dict[str, float]:
    """Largest relative differences of `map`, `score`, `distance` and `novelty`.

    A score may be zero, so differences of map and score are relative to the largest absolute value
    of the image's map; those of the others are relative to their own value.

    Raises:
        ExportError: an image is assigned to another product.

    Example:
        >>> expected = {"map": torch.tensor([[[2.0, -4.0]]]), "score": torch.tensor([2.0]),
        ...             "product": torch.tensor([0]), "distance": torch.tensor([8.0]),
        ...             "novelty": torch.tensor([torch.inf])}
        >>> difference({**expected, "score": torch.tensor([3.0])}, expected)
        {'map': 0.0, 'score': 0.25, 'distance': 0.0, 'novelty': 0.0}
    """
    wrong = (actual["product"] != expected["product"]).nonzero().flatten().tolist()
    if wrong:
        raise ExportError(
            f"images {wrong} of {len(expected['product'])} are assigned to another product than by "
            f"the model: distances {actual['distance'][wrong].tolist()}, the model's "
            f"{expected['distance'][wrong].tolist()}"
        )
    peak = expected["map"].abs().amax((1, 2))
    own = {name: expected[name] for name in ("distance", "novelty")}
    return {
        name: relative_difference(actual[name], expected[name], scale)
        for name, scale in {"map": peak[:, None, None], "score": peak, **own}.items()
    }


def relative_difference(actual: Tensor, expected: Tensor, scale: Tensor) -> float:
    """The largest difference relative to `scale`; 0 between equal values, also infinite ones."""
    relative = (actual - expected).abs() / scale
    return torch.where(actual == expected, 0.0, relative).max().item()


@torch.no_grad()
def verify(
    run: Runner, model: Inspector, graph: InspectionGraph, images: Tensor, tolerance: float
) -> dict[str, float]:
    """Compare a file with the model: on all images, on one, then expert by expert.

    The images show few products, so every expert of the graph scores all of them.

    Returns:
        The largest relative difference of each output, and of the experts.

    Raises:
        ExportError: one of them exceeds the tolerance.
    """
    expected = answers(model, images, graph)
    first = {key: value[:1] for key, value in expected.items()}
    with step("comparing it with the model", total=1 + len(graph.tasks), unit="part") as advance:
        trials = [difference(run(images), expected), difference(run(images[:1]), first)]
        advance(1)
        features = model.extractor(images)
        joined = model.joined(features)
        for index, task in enumerate(graph.tasks):
            wanted = model.patch_scores(features, task)
            actual = graph.patch_scores(features, joined, torch.full((len(images),), index))
            trials.append({"experts": ((actual - wanted).abs().max() / wanted.abs().max()).item()})
            advance(1)
    # `not <=`, so that NaN does not pass
    above = {k: v for trial in trials for k, v in trial.items() if not v <= tolerance}
    if above:
        raise ExportError(
            f"the file differs from the model by {above} (relative), more than --tolerance "
            f"{tolerance}"
            f"{conditioning(model, features, graph, max(above.values()))}"
        )
    return {key: max(trial.get(key, 0.0) for trial in trials) for key in MEASURED}


def conditioning(model: Inspector, features: Tensor, graph: InspectionGraph, differs: float) -> str:
    """Explain a large difference that is due to rounding, which a model can amplify.

    Args:
        model: The model.
        features: Features (B, h, w, W) of the images.
        graph: The graph.
        differs: The largest relative difference.

    Returns:
        The cause and what to do, as a sentence to add; empty where this is not the cause.
    """
    expected = answers_to(model, features, graph)
    change = moved_by_rounding(model, features, graph, expected)
    worst = int(change.argmax())
    if not differs <= EXPLAINED * change[worst].item():
        return ""
    allowed = min(10.0 ** math.ceil(math.log10(differs)), 1.0)
    return (
        f". The model is badly conditioned: where features are rounded by {ROUNDING}, the map of "
        f"image {worst + 1} of {len(change)} changes by {change[worst]:.1e}, and its score is "
        f"{expected['score'][worst]:.1e}: the flow amplifies what is far from its training "
        f"images. Lower model.clamp_alpha ({model.flow.flow[0].clamp}) and learn again, or allow "
        f"it: --tolerance {allowed:g}"
    )


@torch.no_grad()
def moved_by_rounding(
    model: Inspector, features: Tensor, graph: InspectionGraph, expected: Answers
) -> Tensor:
    """Largest change (B,) of each image's map, relative to its peak, after rounding features."""
    noise = 2 * torch.rand(features.shape, generator=torch.Generator().manual_seed(0)) - 1
    moved = answers_to(model, features * (1 + ROUNDING * noise.to(features)), graph)
    change = (moved["map"] - expected["map"]).abs().amax((1, 2))
    return change / expected["map"].abs().amax((1, 2))
