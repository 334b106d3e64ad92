"""The usual baselines beside a finished run, on the same features.

For `benchmarks.accuracy --run`:

* naive fine-tuning: one flow without experts, trained on one product after another (lower bound);
* a flow for each product, trained from scratch, oracle (upper bound);
* a memory bank of patches for each product, random subsampling, oracle.

The run itself is routed: its numbers come from its `report/summary.json`. All use the same image
score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmarks.harness.baselines import BANK, nearest_in, sample_patches
from benchmarks.harness.fits import load_run
from benchmarks.harness.products import BATCH, METRICS, ProductFeatures, Scorer, Values
from benchmarks.harness.report import Report, Row
from moleflow_pl import MoLEFlow, MoLESpatialAwareNF
from moleflow_pl._internal.seeding import derive_generator
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.data.patch_sampler import PatchDraw
from moleflow_pl.module import adamw
from moleflow_pl.scoring.functional import patch_nll
from moleflow_pl.tasks.schedule import lr_factor

CLIP = 0.5  # norm that gradients are clipped to
RUN = "this run, routed"
FINE_TUNING = "naive fine-tuning"
FLOWS = "a flow for each product, oracle"
MEMORY_BANK = f"memory bank of {BANK} patches, oracle"


def plain_flow(dim: int, coupling_layers: int) -> MoLESpatialAwareNF:
    """A flow without experts."""
    torch.manual_seed(0)
    flow = MoLESpatialAwareNF(
        dim, coupling_layers, use_lora=False, use_task_adapter=False, use_task_bias=False
    )
    flow.add_task(0)
    return flow


def train_flow(
    flow: MoLESpatialAwareNF, features: Tensor, epochs: int, patches: int, title: str
) -> None:
    """Train a flow without experts, as the method trains its first task.

    Args:
        flow: The flow.
        features: Features (N, h, w, D), position added.
        epochs: Passes over all images.
        patches: Patches of each image in a step.
        title: Text of the progress bar; random numbers are derived from it.
    """
    flow.requires_grad_(True)
    optimizer = adamw(flow.base_parameters())
    base = [group["lr"] for group in optimizer.param_groups]
    rows, grid = features.flatten(1, 2), (features.shape[1], features.shape[2])
    for epoch in tqdm(range(epochs), desc=title):
        generator = derive_generator(0, title, epoch)
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * lr_factor(epoch, epochs)
        for batch in torch.randperm(len(rows), generator=generator).split(BATCH):
            chosen = rows[batch]
            if patches < chosen.shape[1]:
                draw = PatchDraw(grid, patches, 0, (title, epoch))
                chosen = chosen[torch.arange(len(chosen))[:, None], draw(batch.tolist())]
            optimizer.zero_grad()
            patch_nll(*flow(chosen[:, None], 0)).mean().backward()
            torch.nn.utils.clip_grad_norm_(flow.base_parameters(), CLIP)
            optimizer.step()


def flow_scorer(flow: MoLESpatialAwareNF, position: nn.Module) -> Scorer:
    """NLL of each patch."""
    return lambda features: patch_nll(*flow(position(features), 0))


def flow_baselines(
    model: MoLEFlow, products: Sequence[ProductFeatures], epochs: int
) -> Iterator[tuple[str, list[Scorer]]]:
    """The baselines that train flows: a scorer for each product."""
    layers = model.hparams["coupling_layers"]
    patches = round(model.hparams["patch_fraction"] * model.inspector.extractor.patches)
    train = {
        product.name: model.inspector.position(model.inspector.joined(product.train))
        for product in products
    }
    shared = plain_flow(model.inspector.extractor.dim, layers)
    for name, features in train.items():
        train_flow(shared, features, epochs, patches, f"fine-tuning on {name}")
    yield FINE_TUNING, [flow_scorer(shared, model.inspector.position)] * len(products)
    scorers = []
    for name, features in train.items():
        flow = plain_flow(model.inspector.extractor.dim, layers)
        train_flow(flow, features, epochs, patches, f"a flow for {name}")
        scorers.append(flow_scorer(flow, model.inspector.position))
    yield FLOWS, scorers


def compare(
    model: MoLEFlow, products: Sequence[ProductFeatures], epochs: int
) -> dict[str, list[Values]]:
    """Metrics of every baseline by product, with images scored as the model scores them."""
    scorers, joined = dict(flow_baselines(model, products, epochs)), model.inspector.joined
    scorers[MEMORY_BANK] = [
        nearest_in(sample_patches(joined(product.train), 0)) for product in products
    ]
    return {
        name: [
            product.metrics(
                product.scores(lambda part: scorer(joined(part))),  # noqa: B023
                model.inspector.image_score,
            )
            for product, scorer in zip(products, of_products, strict=True)
        ]
        for name, of_products in scorers.items()
    }


def beside_run(report: Report, checkpoint: Path) -> None:
    """A run's figures, and those of the baselines, on every product."""
    model, config = load_run(checkpoint)
    summary = json.loads((checkpoint.parent / "report" / "summary.json").read_text())
    # each product by itself, also in a group: baselines have no groups
    names = [(name, i) for i, task in enumerate(model.schedule.tasks) for name in task.products]
    layout = LAYOUTS[config["layout"]](config["root"])
    products = [
        ProductFeatures(name, model.inspector.extractor, layout.train(name), layout.test(name))
        for name, _ in names
    ]
    own = [{m: summary["metrics"][m]["routed"][task] for m in METRICS} for _, task in names]
    lines = {RUN: own, **compare(model, products, model.schedule.tasks[0].epochs)}
    for metric in METRICS:
        for line, values in lines.items():
            for product, value in zip(products, values, strict=True):
                if value[metric] is not None:  # pixel AP needs masks
                    report.add(Row(f"{line}: {product.name}, {metric}", value[metric], ""))
