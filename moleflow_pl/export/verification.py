"""Comparison of an exported file's outputs with the model's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moleflow_pl._internal.steps import step
from moleflow_pl.data.images import to_tensor
from moleflow_pl.errors import ExportError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.runtimes import Answers, Runner
from moleflow_pl.export.ties import Ties, settled
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.scoring.functional import anomaly_map

# compared with a tolerance
MEASURED = ("map", "score", "router_distance", "novelty_ratio", "experts")
ALONE = 4  # images that are compared at their own size
ROUNDING = 1e-6  # of features, from one runtime's backbone to another's, relative
EXPLAINED = 10.0  # rounding explains differences up to this multiple of its own effect


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
        "router_distance": inspection.distances[torch.arange(len(column)), column],
        "novelty_ratio": ratios.nan_to_num(torch.inf, posinf=torch.inf).amin(1),
    }


def difference(actual: Answers, expected: Answers) -> dict[str, float]:
    """Largest relative differences of map, score, router distance and novelty ratio.

    A score may be zero, so differences of map and score are relative to the largest absolute value
    of the image's map; those of the others are relative to their own value.

    Raises:
        ExportError: an image is assigned to another product.

    Example:
        >>> expected = {"map": torch.tensor([[[2.0, -4.0]]]), "score": torch.tensor([2.0]),
        ...             "product": torch.tensor([0]),
        ...             "router_distance": torch.tensor([8.0]),
        ...             "novelty_ratio": torch.tensor([torch.inf])}
        >>> difference({**expected, "score": torch.tensor([3.0])}, expected)
        {'map': 0.0, 'score': 0.25, 'router_distance': 0.0, 'novelty_ratio': 0.0}
    """
    wrong = (actual["product"] != expected["product"]).nonzero().flatten().tolist()
    if wrong:
        raise ExportError(
            f"images {wrong} of {len(expected['product'])} are assigned to another product than by "
            f"the model: distances {actual['router_distance'][wrong].tolist()}, the model's "
            f"{expected['router_distance'][wrong].tolist()}"
        )
    peak = expected["map"].abs().amax((1, 2))
    own = {name: expected[name] for name in ("router_distance", "novelty_ratio")}
    return {
        name: relative_difference(actual[name], expected[name], scale)
        for name, scale in {"map": peak[:, None, None], "score": peak, **own}.items()
    }


def compare(
    actual: Answers, expected: Answers, ties: Ties, images: range, tolerance: float
) -> dict[str, float]:
    """As `difference`; where that exceeds the tolerance, without what ties explain.

    Args:
        actual: Of the file.
        expected: Of the model.
        ties: Of the model's memory banks.
        images: The images, by their indices in `ties`.
        tolerance: Largest relative difference.
    """
    found = difference(actual, expected)
    if all(value <= tolerance for value in found.values()):
        return found
    return difference(ties.settle(actual, expected, images), expected)


def expert_difference(ties: Ties, index: int, tolerance: float) -> float:
    """As `compare`, of the patch scores of all images by one expert, by its index in the graph."""
    model, features, graph = ties.model, ties.features, ties.graph
    expected = model.patch_scores(features, graph.tasks[index])
    of_images = torch.full((len(features),), index)
    actual = graph.patch_scores(features, model.joined(features), of_images)
    scale = expected.abs().max()
    found = relative_difference(actual, expected, scale)
    if found <= tolerance:
        return found
    return relative_difference(settled(actual, expected, ties.jumps(index)), expected, scale)


def relative_difference(actual: Tensor, expected: Tensor, scale: Tensor) -> float:
    """The largest difference relative to `scale`; 0 between equal values, also infinite ones."""
    relative = (actual - expected).abs() / scale
    return torch.where(actual == expected, 0.0, relative).max().item()


@torch.no_grad()
def verify(
    run: Runner,
    model: Inspector,
    graph: InspectionGraph,
    originals: Sequence[Image.Image],
    tolerance: float,
) -> dict[str, float]:
    """Compare a file with the model: on a batch, on images of their own size, by every expert.

    The images show few products, so every expert of the graph scores all of them. A difference that
    exceeds the tolerance may be due to ties in memory banks, see `Ties`; what they explain does not
    count.

    Args:
        run: Runs the file.
        model: The model.
        graph: The graph in the file.
        originals: Images; all are compared at the model's size, the first also at their own.
        tolerance: Largest relative difference.

    Returns:
        The largest relative difference of each output, and of the experts.

    Raises:
        ExportError: a difference exceeds the tolerance.
    """
    images = torch.stack([to_tensor(image, model.extractor.image_size) for image in originals])
    features = model.extractor(images)
    expected, ties = answers_to(model, features, graph), Ties(model, features, graph)
    with step("comparing it with the model", total=1 + len(graph.tasks), unit="part") as advance:
        whole = run(images.permute(0, 2, 3, 1).contiguous())
        trials = [compare(whole, expected, ties, range(len(images)), tolerance)]
        for i, original in enumerate(originals[:ALONE]):
            own = {key: value[i : i + 1] for key, value in expected.items()}
            actual = run(torch.from_numpy(np.array(original))[None])
            trials.append(compare(actual, own, ties, range(i, i + 1), tolerance))
        advance(1)
        for index in range(len(graph.tasks)):
            trials.append({"experts": expert_difference(ties, index, tolerance)})
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
