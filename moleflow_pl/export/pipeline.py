"""From a checkpoint to one file for other runtimes, verified before it replaces an older one."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moleflow_pl._internal.files import partial_of, replaceable, writing
from moleflow_pl._internal.steps import step
from moleflow_pl._internal.validation import require_number
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import run_arguments
from moleflow_pl.data.images import read_rgb
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.data.predict_dataset import find_files
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.runtimes import Format, check_packages, describe, open_file, sums_of, write
from moleflow_pl.export.verification import verify
from moleflow_pl.metrics.task_scores import EvaluationOptions
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.model.restore import inspector_of

IMAGES_PER_PRODUCT = 8  # to verify with
MAX_IMAGES = 16  # in one batch, through every expert
MAP_OPTIONS = ("map_size", "upsampling")


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    kind: Format = "onnx",
    product: str | None = None,
    images: str | None = None,
    tolerance: float = 1e-4,
    **overrides: Any,
) -> str:
    """Write the file, verify it, and return a summary in words.

    Args:
        checkpoint: A run's checkpoint.
        output: The file to write; left as it was where the new one fails verification.
        kind: ONNX, or a program for `torch.export.load`.
        product: The product whose expert is exported; by default all experts and the router.
        images: File, folder or pattern of images to verify with; by default images of the run.
        tolerance: Largest relative difference from the model.
        overrides: Arguments of the model that replace those of the checkpoint, such as
            `backbone_weights` if the file has moved.

    Raises:
        ExportError: a package is missing, or the file differs from the model.
        ConfigError: the model does not know the product, or a value is out of range.
        OutputError: the file cannot be written.
    """
    require_number("tolerance", tolerance, 0, 1, above=True)
    for file in (output, sums_of(output)):
        replaceable(file)
    if kind == "onnx":
        check_packages()
    content = read_checkpoint(checkpoint)
    model = inspector_of(content, checkpoint, **overrides)
    model.schedule.require_learned()
    model.extractor.precision = "float32"  # as in the file
    config = run_arguments(content)
    tasks = None if product is None else [task_of(model, product)]
    evaluation = config.get("evaluation", {})
    known = {name: evaluation[name] for name in MAP_OPTIONS if name in evaluation}
    maps = EvaluationOptions(**known)
    graph = InspectionGraph(model, tasks, maps.map_size, maps.interpolation)
    description = describe(graph, model.schedule, product)
    trial, source = trial_images(model, graph.tasks, config.get("data", {}), images)
    with writing(output), partial_folder(output) as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")  # on its internals
        draft = folder / output.name
        with step(f"writing {output.name}", total=1, unit="file") as advance:
            write(graph, draft, kind, description)
            advance(1)
        differences = verify(open_file(draft, kind), model, graph, trial, tolerance)
        targets = {  # large ONNX weights are a second file
            file: replaceable(output.parent / file.name) for file in folder.iterdir()
        }
        for file, target in targets.items():
            os.replace(file, target)
    measured = ", ".join(f"{key} {value:.1e}" for key, value in differences.items())
    return (
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, products {description['products']}\n"
        f"verified on {len(trial)} {source}: relative differences of at most {measured}"
    )


@contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """A folder with a temporary name beside a file, for its drafts; it is removed at the end."""
    folder = partial_of(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def task_of(model: Inspector, product: str) -> int:
    """The task of a product, by the name of either.

    Raises:
        ConfigError: no learned task has that name or product.
    """
    tasks = [model.schedule.tasks[i] for i in model.router.tasks]
    for index, task in zip(model.router.tasks, tasks, strict=True):
        if product in (task.name, *task.products):
            return index
    learned = [name for task in tasks for name in task.products]
    raise ConfigError(f"no product {product!r} in this model: it knows {learned}")


def trial_images(
    model: Inspector, tasks: Sequence[int], data: Mapping[str, Any], where: str | None
) -> tuple[list[Image.Image], str]:
    """Images to verify with: those of `where`, those of the run, or noise.

    Args:
        model: The model.
        tasks: Tasks whose images of the run are used.
        data: The run's arguments of the data module.
        where: File, folder or pattern; None for images of the run.

    Returns:
        The images, and their source in words.
    """
    if where is not None:
        paths, source = [Path(path) for path in find_files(where).images], f"images of {where}"
    else:
        products = [name for task in tasks for name in model.schedule.tasks[task].products]
        paths, source = run_images(data, products), "images of the run"
    if paths:
        return [read_rgb(path) for path in spread(paths, MAX_IMAGES)], source
    height, width = model.extractor.image_size
    # of another size than the model's
    shape = (IMAGES_PER_PRODUCT, height + height // 2, width + width // 3, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = "images of noise (no image of the run was found: give others with --images)"
    return [Image.fromarray(image) for image in noise], source


def run_images(data: Mapping[str, Any], products: Sequence[str]) -> list[Path]:
    """Some images of each product of a run, as far as they still exist."""
    paths = []
    for product in products:
        try:
            layout = LAYOUTS[data.get("layout", "mvtec")](data.get("root"))
            records = layout.test(product) or layout.train(product)
        except DataError:
            continue
        paths += spread([record.path for record in records], IMAGES_PER_PRODUCT)
    return paths


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the paths, evenly spaced.

    Example:
        >>> [path.name for path in spread([Path(name) for name in "abcde"], 2)]
        ['a', 'c']
    """
    step = max(len(paths) // count, 1)
    return list(paths[::step][:count])
