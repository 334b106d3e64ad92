"""Accuracy beside baselines on real products, in several orders and over seeds.

    python -m benchmarks.accuracy --root DATA --weights vit_small_patch14_dinov2.safetensors
    python -m benchmarks.accuracy --run runs/demo/last.ckpt

DATA holds `magnetic_tile`, or the products that `--products` names, in the layout of MVTec AD; the
solar cells come from a package. The method routes every image; its baselines know the product. A
full run takes hours on a CPU, and a stopped run resumes (`--folder`). Writes the tables to
docs/accuracy.md, in place of those there (`--output`); exits with 1 if a figure misses its limit.

With `--run`, a finished run is compared with the usual baselines on its products instead: with
naive fine-tuning of one flow, with a flow for each product, and with a memory bank for each
product. All use the features and the image score of the run. Prints a table, and finally a line of
JSON.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.harness.baselines import BASELINES, CORESET_BANK, RANDOM_BANK, STRONG_BANK
from benchmarks.harness.beside_run import beside_run
from benchmarks.harness.command_line import add_study_arguments, script_parser, study_of
from benchmarks.harness.fits import learn
from benchmarks.harness.lines import Line, difference, order_effects
from benchmarks.harness.plans import BACKBONES, Backbone, beginning_with, seed_recipe
from benchmarks.harness.products import AS_PUBLISHED, GUIDED, evenly, link_images
from benchmarks.harness.report import Report, Row, benchmark, markdown_table
from benchmarks.harness.study import Run, Study
from moleflow_pl import MoLEFlow
from moleflow_pl._internal.provenance import hardware, versions
from moleflow_pl.checkpoints.expert_edits import extract
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.run_folder import TASKS
from moleflow_pl.features.backbone import PRETRAINED

HEAD = Path(__file__).with_name("accuracy.md")
SEEDS = (0, 1, 2)
BANK = "the method, memory banks, routed"
FLOW = "the method, no memory bank, routed"
ALIKE = ", images scored as the method's"
ORACLE = ", oracle"
WITHOUT = "without memory bank, "  # before figures of the method
MORE_IMAGES = 400  # of the product that is timed
LEAST_ABOVE_RAW, LEAST_ABOVE_STRONG = -0.003, -0.005  # of a product's image AUROC to the banks'
MOST_SPREAD, LEAST_CHANGE = 0.01, -0.01  # over orders; learned later minus learned first
MOST_SECONDS, MOST_MB_WITHOUT_BANK = 180, 4.0


def fit_all(
    study: Study, orders: Iterable[Sequence[str]], seeds: Iterable[int], seed_method: bool
) -> dict[str, Line]:
    """All fits and baselines of a backbone, as the lines of its table."""
    orders, seeds, method = list(orders), list(seeds), study.backbone.method
    runs = [study.run(method, seed, order) for seed in seeds for order in orders]
    score = study.backbone.score
    lines = {
        BANK: Line(runs, f"{score}, routed"),
        FLOW: Line(runs, "norm, routed"),
        f"the method, no memory bank{ORACLE}": Line(runs, f"norm{ORACLE}"),
    }
    single = [study.run(method, seed, order) for seed in seeds for order in missing(study, orders)]
    for what, column in (("memory bank", score), ("no memory bank", "norm")):
        name = f"a flow for each product, {what}{ORACLE}"
        lines[name] = Line([*runs, *single], f"{column}{ORACLE}", first_only=True)
    lines |= baseline_lines(study, seeds)
    if seed_method:
        recipe = seed_recipe()
        runs = [study.run(recipe, seeds[0], order) for order in orders]
        for mode in ("routed", "oracle"):
            name = f"the method as first written down (1 seed), {mode}"
            lines[name] = Line(runs, f"nll, {mode}")
    return lines


def missing(study: Study, orders: Iterable[Sequence[str]]) -> Iterator[tuple[str]]:
    """Orders of one product, for the products that no order begins with."""
    first = {order[0] for order in orders}
    return ((product,) for product in study.products if product not in first)


def baseline_lines(study: Study, seeds: Sequence[int]) -> Iterator[tuple[str, Line]]:
    """Baselines with images scored as published, and as the method's if that differs."""
    scores = list(dict.fromkeys([AS_PUBLISHED, study.image_score]))
    runs = {name: [study.baseline(name, seed, scores) for seed in seeds] for name in BASELINES}
    for image in scores:
        for name in BASELINES:
            alike = "" if image == AS_PUBLISHED else ALIKE
            yield f"{name}{alike}{ORACLE}", Line(runs[name], image.key)


class Judge:
    """Adds the figures of one backbone to a report.

    Args:
        report: The report.
        study: The runs.
        lines: The lines of the backbone's table.
    """

    def __init__(self, report: Report, study: Study, lines: Mapping[str, Line]) -> None:
        self.report, self.study, self.lines = report, study, lines
        self.limits = study.backbone.limits
        self.bank, self.flow = lines[BANK], lines[FLOW]
        alike = "" if study.image_score == AS_PUBLISHED else ALIKE
        self.rivals = {name: lines[f"{name}{alike}{ORACLE}"] for name in BASELINES}

    def add(
        self, what: str, value: float, unit: str = "", note: str = "", **limits: float | None
    ) -> None:
        """Add a figure of this backbone."""
        row = Row(f"{self.study.backbone.name}: {what}", value, unit, note=note, **limits)
        self.report.add(row)

    def means(self) -> None:
        """Mean image AUROC above the baselines', with the same image score."""
        least = {CORESET_BANK: self.limits.raw, STRONG_BANK: self.limits.strong}
        for name, line in self.rivals.items():
            above = self.bank.overall() - line.overall()
            self.add(f"mean above {name}", above, least=least.get(name))
        for name in (RANDOM_BANK, CORESET_BANK):
            above = self.flow.overall() - self.rivals[name].overall()
            self.add(f"{WITHOUT}mean above {name}", above)

    def products(self) -> None:
        """Every product above the two banks with a limit, with a confidence interval."""
        for product in self.study.products:
            defective = self.study.features(product).defective.numpy()
            for name, least in ((CORESET_BANK, LEAST_ABOVE_RAW), (STRONG_BANK, LEAST_ABOVE_STRONG)):
                mean, low, high = difference(self.bank, self.rivals[name], product, defective)
                note = f"95 % confidence interval {low:+.3f} to {high:+.3f}"
                limit = None if self.limits.strong is None else least
                self.add(f"{product} above {name}", mean, note=note, least=limit)

    def pixels(self) -> None:
        """Pixel AP above the strong memory bank's, where there are masks."""
        rival = self.rivals[STRONG_BANK]
        if masked := self.bank.with_metric("pixel_ap"):
            above = self.bank.overall("pixel_ap") - rival.overall("pixel_ap")
            what = f"pixel AP of {', '.join(masked)} above {STRONG_BANK}"
            self.add(what, above, least=self.limits.pixel)
        for product in masked:
            above = self.bank.mean(product, "pixel_ap") - rival.mean(product, "pixel_ap")
            self.add(f"pixel AP of {product} alone above {STRONG_BANK}", above)
        if masked:
            guided = self.bank.overall(GUIDED)
            for maps, metric in (("guided", GUIDED), ("blurred", "pixel_ap")):
                what = f"pixel AP of guided maps above {maps} maps of {STRONG_BANK}"
                self.add(what, guided - rival.overall(metric))

    def orders(self) -> None:
        """How much the order of the products matters."""
        for what, line in (("", self.bank), (WITHOUT, self.flow)):
            spread, change = order_effects(line)
            self.add(f"{what}spread over orders", spread, most=MOST_SPREAD)
            self.add(f"{what}learned later against first", change, least=LEAST_CHANGE)

    def routing(self) -> None:
        """Routing accuracy on defective images, and that nothing is forgotten."""
        for product in self.study.products:
            shares = [
                run.products[product]["routing"]["defective"] for run in self.bank.runs_of(product)
            ]
            what = f"{product}, routing accuracy on defective images"
            self.add(what, statistics.mean(shares), least=self.limits.routing)
        changed = sum(not run.facts["first_unchanged"] for run in self.bank.runs)
        self.add("runs in which oracle scores of the first product changed", changed, most=0)

    def sizes(self, run: Run) -> None:
        """Disk space of the expert of a run's last product."""
        folder = self.study.run_folder(self.study.backbone.method, run.seed, run.order)
        expert = extract(read_checkpoint(folder / "last.ckpt"), run.order[-1])
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "expert.safetensors"
            for what, most in (("", self.limits.expert_mb), (WITHOUT, MOST_MB_WITHOUT_BANK)):
                expert.save(path)
                self.add(f"{what}expert on disk", path.stat().st_size / 1e6, "MB", most=most)
                expert.tensors = {k: t for k, t in expert.tensors.items() if "banks." not in k}

    def one_more(self, run: Run) -> None:
        """Time to add a product to a run whose first product's images are gone."""
        method = self.study.limited(self.study.backbone.method)
        first, product = run.order[0], run.order[-1]
        source = replace(self.study.sources[product], train_images=MORE_IMAGES)
        train = source.train()
        folder = self.study.run_folder(method, run.seed, run.order)
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary) / "images"
            link_images(train, root / product)
            model = MoLEFlow(**{**self.study.backbone.arguments, **method.model})
            started = time.monotonic()
            learn(
                model, root, Path(temporary) / "run", [first, product], method.epochs,
                folder / TASKS / f"00-{first}.ckpt", layout="folder", val_fraction=0.0,
            )  # fmt: skip
            seconds = time.monotonic() - started
        note = f"{method.epochs} epochs of {len(train)} images, features included"
        self.add("one more product", seconds, "s", note=note, most=MOST_SECONDS)

    def judge(self) -> None:
        """Add all figures, in the order of the table."""
        for part in (self.means, self.products, self.pixels, self.orders, self.routing):
            part()
        run = self.bank.runs[0]
        self.sizes(run)
        if len(run.order) > 1:
            self.one_more(run)


def table(study: Study, lines: Mapping[str, Line]) -> Iterator[str]:
    """The table of one backbone as lines of Markdown."""
    masked = lines[BANK].with_metric("pixel_ap")
    pixel = f"pixel AP, {masked[0]}" if len(masked) == 1 else "mean pixel AP"
    pixels = [f"{pixel}, {maps} maps" for maps in ("blurred", "guided")]
    yield from (f"## {study.backbone.name}", "")
    rows = ([name, *line.cells(study.products)] for name, line in lines.items())
    yield from markdown_table(["image AUROC", *study.products, "mean", *pixels], rows)
    yield ""


def command(given: argparse.Namespace) -> str:
    """The command that writes the page, without the places of its files."""
    chosen = {
        "weights": None if given.weights == PRETRAINED else ["FILE"],
        "backbones": given.backbones,
        "products": given.products,
        "seeds": given.seeds,
        "orders": [given.orders] if given.orders else None,
        "seed-method": given.seed_method,
    }
    options = [["--" + name, *map(str, of)] for name, of in chosen.items() if of is not None]
    return " \\\n    ".join(
        ["python -m benchmarks.accuracy --root DATA", *map(shlex.join, options)]
    )


def page(given: argparse.Namespace, tables: Sequence[str], report: Report) -> str:
    """The page that the command writes."""
    title = f"# Accuracy, {' and '.join(BACKBONES[key].name for key in given.backbones)}"
    facts = ", ".join(f"{key} {value}" for key, value in (hardware() | versions()).items())
    foot = f"Seeds {', '.join(map(str, given.seeds or SEEDS))}. {facts}."
    head = ["This page was written by:", "", "```bash", command(given), "```", "", HEAD.read_text()]
    limits = ["## Figures and their limits", "", *report.markdown(), ""]
    return "\n".join([title, "", *head, *tables, *limits, foot, ""])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    add_study_arguments(parser)
    parser.add_argument("--run", type=Path, metavar="CHECKPOINT", help="of a finished run")
    parser.add_argument(
        "--orders", type=int, help="orders, each beginning with another product (all products)"
    )
    parser.add_argument(
        "--seed-method", nargs="*", choices=list(BACKBONES), metavar="BACKBONE",
        help="backbones on which the method as first written down is fitted too: 40 epochs (those "
        "of --backbones)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("docs/accuracy.md"))
    given = parser.parse_args()
    if given.seed_method is None:
        given.seed_method = given.backbones
    return given


def measure(report: Report, given: argparse.Namespace, backbone: Backbone) -> list[str]:
    """All runs and figures of a backbone; its table."""
    study = study_of(backbone, given)
    first = evenly(study.products, given.orders or len(study.products))
    orders = [beginning_with(product, study.products) for product in first]
    lines = fit_all(study, orders, given.seeds or SEEDS, backbone.key in given.seed_method)
    Judge(report, study, lines).judge()
    return list(table(study, lines))


def main() -> int:
    """Fit, judge, write the page; or compare a finished run."""
    given, report = parse(), Report("accuracy")
    if given.run is not None:
        return benchmark("accuracy --run", partial(beside_run, checkpoint=given.run))
    tables = [line for key in given.backbones for line in measure(report, given, BACKBONES[key])]
    code = report.finish()
    given.output.write_text(page(given, tables, report))
    return code


if __name__ == "__main__":
    sys.exit(main())
