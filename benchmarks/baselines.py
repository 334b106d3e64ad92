"""Compares a finished run with the usual baselines, on the same features.

    python -m benchmarks.baselines runs/demo/last.ckpt

* naive fine-tuning: one flow without experts, trained on one product after another (lower bound);
* a flow for each product, trained from scratch, oracle (upper bound);
* a memory bank of patches for each product, random subsampling, oracle.

The run itself is routed: its numbers come from its `report/summary.json`. All use the same image
score. Prints image AUROC and pixel AP as a table, and finally a line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.harness.baselines import (
    BANK,
    nearest_in,
    plain_flow,
    sample_patches,
    train_flow,
)
from benchmarks.harness.fits import load_run
from benchmarks.harness.products import METRICS, ProductFeatures, Scorer, Values
from moleflow_pl import MoLEFlow, MoLESpatialAwareNF
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.report.summary import format_value
from moleflow_pl.scoring.functional import patch_nll

RUN = "this run, routed"
FINE_TUNING = "naive fine-tuning"
FLOWS = "a flow for each product, oracle"
MEMORY_BANK = f"memory bank of {BANK} patches, oracle"


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
    scorers = dict(flow_baselines(model, products, epochs))
    scorers[MEMORY_BANK] = [nearest_in(sample_patches(product.train, 0)) for product in products]
    return {
        name: [
            product.metrics(product.scores(scorer), model.inspector.image_score)
            for product, scorer in zip(products, of_products, strict=True)
        ]
        for name, of_products in scorers.items()
    }


def main() -> None:
    """Compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    path = parser.parse_args().checkpoint
    model, config = load_run(path)
    summary = json.loads((path.parent / "report" / "summary.json").read_text())
    # each product by itself, also in a group: baselines have no groups
    names = [(name, i) for i, task in enumerate(model.schedule.tasks) for name in task.products]
    layout = LAYOUTS[config["layout"]](config["root"])
    products = [
        ProductFeatures(name, model.inspector.extractor, layout.train(name), layout.test(name))
        for name, _ in names
    ]
    own = [{m: summary["metrics"][m]["routed"][task] for m in METRICS} for _, task in names]
    lines = {RUN: own, **compare(model, products, model.schedule.tasks[0].epochs)}
    table = Table("", title=f"{path}: image AUROC / pixel AP")
    for product in products:
        table.add_column(product.name, justify="right")
    for name, values in lines.items():
        table.add_row(name, *(" / ".join(format_value(v[m]) for m in METRICS) for v in values))
    Console().print(table)
    print(json.dumps({"products": [p.name for p in products], "lines": lines}))


if __name__ == "__main__":
    main()
