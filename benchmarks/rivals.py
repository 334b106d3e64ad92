"""Sets a finished run beside the lines every paper of the field draws, on the same features.

    python -m benchmarks.rivals runs/demo/last.ckpt

* naive fine-tuning: one flow without experts, trained on one product after another (lower line);
* a flow for each product, trained from nothing, product told (upper line);
* a bank of patches for each product and the distance to the nearest of them, product told.

The run itself is routed; its numbers are those of its `report/summary.json`. All score images
alike. Prints a table, and one line of JSON last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmarks.products import (
    BANK,
    BATCH,
    METRICS,
    Product,
    Scorer,
    Values,
    nearest_in,
    sample_patches,
)
from benchmarks.runs import checkpoint_argument, load_run
from moleflow_pl import MoLEFlow, MoLESpatialAwareNF
from moleflow_pl._internal.seeding import derive_generator
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.data.patch_sampler import PatchDraw
from moleflow_pl.module import adamw
from moleflow_pl.report.summary import format_value
from moleflow_pl.scoring.functional import patch_nll
from moleflow_pl.tasks.schedule import lr_factor

CLIP = 0.5


def train(
    flow: MoLESpatialAwareNF, features: Tensor, epochs: int, patches: int, title: str
) -> None:
    """Train all of a flow without experts, as the first task of a run is trained."""
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


def plain_flow(dim: int, coupling_layers: int) -> MoLESpatialAwareNF:
    """A flow with nothing of its own for any task."""
    torch.manual_seed(0)
    flow = MoLESpatialAwareNF(
        dim, coupling_layers, use_lora=False, use_task_adapter=False, use_task_bias=False
    )
    flow.add_task(0)
    return flow


def flow_scorer(flow: MoLESpatialAwareNF, position: nn.Module) -> Scorer:
    """NLL of each patch."""
    return lambda features: patch_nll(*flow(position(features), 0))


def rivals(
    model: MoLEFlow, products: list[Product], epochs: int
) -> Iterator[tuple[str, list[Values]]]:
    """Every rival's name and its metrics by product, images scored as the model does."""

    def evaluate(product: Product, scorer: Scorer) -> Values:
        return product.metrics(product.scores(scorer), model.image_score)

    layers, patches = (
        model.hparams["coupling_layers"],
        round(model.patch_fraction * model.extractor.patches),
    )
    shared = plain_flow(model.extractor.dim, layers)
    learn = {product.name: model.position(product.train) for product in products}
    for name, features in learn.items():
        train(shared, features, epochs, patches, f"fine-tuning on {name}")
    scorer = flow_scorer(shared, model.position)
    yield "naive fine-tuning", [evaluate(product, scorer) for product in products]
    found = []
    for product in products:
        flow = plain_flow(model.extractor.dim, layers)
        train(flow, learn[product.name], epochs, patches, f"a flow for {product.name}")
        found.append(evaluate(product, flow_scorer(flow, model.position)))
    yield "a flow for each product (told)", found
    yield (
        f"bank of {BANK} patches (told)",
        [evaluate(one, nearest_in(sample_patches(one.train, 0))) for one in products],
    )


def main() -> None:
    """Compare, print."""
    path = checkpoint_argument(__doc__)
    model, config = load_run(path)
    summary = json.loads((path.parent / "report" / "summary.json").read_text())
    # products by themselves: a rival knows no groups
    names = [(name, i) for i, task in enumerate(model.schedule.tasks) for name in task.products]
    layout = LAYOUTS[config["layout"]](config["root"])
    products = [
        Product(name, model.extractor, layout.train(name), layout.test(name)) for name, _ in names
    ]
    ours = [{m: summary["metrics"][m]["routed"][task] for m in METRICS} for _, task in names]
    lines = {"this run, routed": ours}
    lines |= dict(rivals(model, products, model.schedule.tasks[0].epochs))
    table = Table(title=f"{path}: image AUROC / pixel AP")
    table.add_column("")
    for product in products:
        table.add_column(product.name, justify="right")
    for name, values in lines.items():
        table.add_row(name, *(" / ".join(format_value(v[m]) for m in METRICS) for v in values))
    Console().print(table)
    print(json.dumps({"products": [p.name for p in products], "lines": lines}))


if __name__ == "__main__":
    main()
