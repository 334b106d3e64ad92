"""Thresholds, unknown products, masks: decisions of a run, and the cost of contamination.

    python -m benchmarks.decisions run runs/demo/last.ckpt
    python -m benchmarks.decisions thresholds runs/demo runs/mvtec
    python -m benchmarks.decisions redrawn runs/demo
    python -m benchmarks.decisions folds --root DATA --products solar_mono mvtec_pill
    python -m benchmarks.decisions contamination --config demo --share 0 --share 0.1
    python -m benchmarks.decisions localisation RUN --choose magnetic_tile --confirm mvtec_pill

`run` counts, for each product by its oracle scores, the good test images above the threshold; the
limits are the 99 % interval of that count if the target rate is the true one (beta-binomial, by the
number of calibration images). Then, for every set of known products, it measures the share of each
product's images that is called unknown. The novelty limit belongs to a product, so nothing is
learned again. Exits with 1 if a figure misses its limit; a note says if the backbone cannot
separate the products.

`thresholds` prints the thresholds of finished runs by the formula that takes every calibration
image for good, beside the robust one, and beside one whose tail has the shape of those of the other
products. Exits with 1 if false alarms leave that interval.

`redrawn` draws calibration images from the test images of finished runs instead, 200 times, with
defective ones among them, for products with at least 100 good test images. Exits with 1 if the
robust threshold then finds less than 0.8 of what it finds without defective ones, or raises more
than twice the false alarms asked for.

`folds` compares two thresholds: by a tenth of the good images, from which no expert learns, and by
all of them, where each of five experts scores the fifth that it did not see. It continues a stopped
measurement.

`contamination` learns the products of a preset or configuration file once for each share of
defective images among training and calibration images; these are left out of the test. It prints
oracle image AUROC and how many test images exceed the calibrated threshold.

`localisation` compares the way from patch scores to a mask (a map that follows the image, above the
pixel threshold, at least half of a region's height) with the first one (blurred, above a threshold
on the highest pixel of good images), and with other maps: bilinear, bicubic, kornia's guided filter
in colour and joint bilateral filter (`pip install kornia`). The best of these on the products to
choose on is tried on the others. Pixel IoU is of an image's mask; box IoU is of the best box for
each defect of it. Both are means over at most 120 defective images that have a mask, also those
that are missed. Exits with 1 where an IoU is less than twice the first one.

All print a table, and finally a line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from benchmarks.harness.command_line import (
    add_study_arguments,
    script_parser,
    studies_of,
    subject_parsers,
)
from benchmarks.harness.fits import load_run, read_preset
from benchmarks.harness.folds import compare
from benchmarks.harness.localisation import localise
from benchmarks.harness.products import loader_of
from benchmarks.harness.report import Report, Row, benchmark
from benchmarks.harness.thresholds import alarms_by_chance, redrawn, side_by_side
from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import EvaluationCallback, TaskSchedulerCallback
from moleflow_pl.cli.lightning import TRAINER_DEFAULTS
from moleflow_pl.data.layouts.base import ImageRecord, Layout
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.tasks.calibration import Calibration

RATES = (0.05, 0.01, 0.001)
UNKNOWN = 95.0  # least % of an unknown product's images that are called unknown
KNOWN_GOOD, KNOWN_DEFECTIVE = 1.0, 2.0  # most % of a known product's images
SHARES = (0.0, 0.01, 0.05, 0.1)
OF_RUNS = {"thresholds": side_by_side, "redrawn": redrawn}  # subjects about finished runs


@dataclass
class Answers:
    """The model's answers for a product's test images.

    Attributes:
        scores: Oracle scores (N,).
        novelty: Novelty ratio to each product (N, T): distance divided by the product's limit.
        defective: Which images are (N,), bool.
    """

    scores: Tensor
    novelty: Tensor
    defective: Tensor


def calibration_of(model: MoLEFlow, task: int) -> Calibration:
    """A task's calibration.

    Raises:
        SystemExit: The run has no calibration images.
    """
    calibration = model.schedule.tasks[task].calibration
    if calibration is None:
        name = model.schedule.names[task]
        sys.exit(f"{name} has no calibration: fit with data.val_fraction above 0")
    return calibration


def scores_of(model: MoLEFlow, data: Mapping[str, Any], task: int) -> Answers:
    """Score a task's test images."""
    tasks = range(len(model.schedule.tasks))
    limits = torch.tensor([calibration_of(model, i).novelty_limit for i in tasks])
    layout = LAYOUTS[data["layout"]](data["root"])
    products = model.schedule.tasks[task].products
    records = [record for product in products for record in layout.test(product)]
    extractor = model.inspector.extractor
    scores, novelty = [], []
    with torch.inference_mode():
        for batch in loader_of(records, extractor.image_size):
            inspection = model.inspector.inspect(extractor(batch["image"]), task)
            scores.append(inspection.score)
            novelty.append(inspection.novelty_distance / limits)
    labels = torch.tensor([bool(record.gt_label) for record in records])
    return Answers(torch.cat(scores), torch.cat(novelty), labels)


def false_alarms(model: MoLEFlow, answers: Sequence[Answers]) -> Iterator[Row]:
    """False alarms among good test images: a row for each product and rate."""
    for task, found in enumerate(answers):
        calibration = calibration_of(model, task)
        for rate in RATES:
            calibration.false_alarm_rate = rate
            threshold = calibration.score_threshold
            above = found.scores > threshold.value
            good = int((~found.defective).sum())
            least, most = alarms_by_chance(good, threshold.images, rate)
            yield Row(
                f"{model.schedule.names[task]}, {rate:.1%} asked: false alarms",
                float(above[~found.defective].sum()),
                f"of {good}",
                least=least,
                most=most,
                note=f"{threshold.images} calibration images"
                f"{', extrapolated' * threshold.extrapolated}; "
                f"{above[found.defective].float().mean():.1%} of the defective ones found",
            )


def unknown_products(names: Sequence[str], answers: Sequence[Answers]) -> Iterator[Row]:
    """Shares of images called unknown: rows for each set of known products and each product."""
    for size in range(1, len(names) + 1):
        for known in combinations(range(len(names)), size):
            columns = list(known)
            title = ", ".join(names[i] for i in known)
            for task, found in enumerate(answers):
                novelty = found.novelty[:, columns].amin(1)
                what = f"{title} known: {names[task]}"
                if task not in known:
                    note = inseparable(found, [answers[i] for i in known], columns)
                    yield Row(f"{what} unknown", percent(novelty), "%", UNKNOWN, note=note)
                    continue
                good, bad = novelty[~found.defective], novelty[found.defective]
                yield Row(f"{what}, good, unknown", percent(good), "%", most=KNOWN_GOOD)
                yield Row(f"{what}, defective, unknown", percent(bad), "%", most=KNOWN_DEFECTIVE)


def percent(novelty: Tensor) -> float | None:
    """Percentage of images beyond the limit; None without images."""
    return 100 * (novelty > 1).float().mean().item() if len(novelty) else None


def lowest_limit(novelty: Tensor, most: float) -> float:
    """The limit that `most` percent of images exceed; 0 without images."""
    return novelty.quantile(1 - most / 100).item() if len(novelty) else 0.0


def inseparable(unknown: Answers, known: Sequence[Answers], columns: Sequence[int]) -> str:
    """Why no novelty limit makes a product unknown; empty if one does.

    Tries the lowest limits, chosen on the test images, with which the known products stay known.
    """
    lowest = [
        max(
            lowest_limit(own.novelty[own.defective, column], KNOWN_DEFECTIVE),
            lowest_limit(own.novelty[~own.defective, column], KNOWN_GOOD),
        )
        for own, column in zip(known, columns, strict=True)
    ]
    share = percent((unknown.novelty[:, columns] / torch.tensor(lowest)).amin(1))
    if share is None or share >= UNKNOWN:
        return ""
    return f"any limit that leaves known defects known: {share:.1f} %"


def judge_run(report: Report, model: MoLEFlow, data: Mapping[str, Any]) -> None:
    """Decisions of a finished run.

    Args:
        report: Takes the figures.
        model: The run's model.
        data: Layout and root of its images.
    """
    tasks = range(len(model.schedule.tasks))
    answers = [scores_of(model, data, task) for task in tasks]
    report.add_all(false_alarms(model, answers))
    report.add_all(unknown_products(model.schedule.names, answers))


class ContaminatedLayout:
    """A layout in which a share of the training images is defective, evenly spread.

    Args:
        layout: The clean layout.
        share: Share of all training images.
    """

    def __init__(self, layout: Layout, share: float) -> None:
        self.layout = layout
        self.share = share

    def products(self) -> list[str]:
        """Names of the products there are."""
        return self.layout.products()

    def train(self, product: str) -> list[ImageRecord]:
        """Good images with defective ones among them."""
        good, bad = self.layout.train(product), self._moved(product)
        step = len(good) / (len(bad) + 1)
        for i, record in enumerate(bad, start=1):
            good.insert(round(i * step) + i - 1, ImageRecord(record.path, product))
        return good

    def test(self, product: str) -> list[ImageRecord]:
        """Test images without those that are trained on."""
        moved = {record.path for record in self._moved(product)}
        return [record for record in self.layout.test(product) if record.path not in moved]

    def _moved(self, product: str) -> list[ImageRecord]:
        bad = [record for record in self.layout.test(product) if record.gt_label]
        good = len(self.layout.train(product))
        # as many as make the share of all training images
        count = round(self.share * good / (1 - self.share))
        return [bad[i * len(bad) // count] for i in range(count)]


def contaminated_layout(name: str, share: float) -> str:
    """Register a layout with a share of defective training images; its name."""
    contaminated = f"{name}, {share:.2%} defective"
    LAYOUTS[contaminated] = lambda root: ContaminatedLayout(LAYOUTS[name](root), share)
    return contaminated


def learn(config: dict[str, Any], share: float, run: Path) -> MoLEFlow:
    """Fit once with a share of defective training images."""
    torch.manual_seed(config["seed_everything"])
    layout = contaminated_layout(config["data"].get("layout", "mvtec"), share)
    data = ContinualDataModule(**{**config["data"], "layout": layout})
    module = MoLEFlow(**config["model"])
    callbacks = [
        TaskSchedulerCallback(**config.get("schedule", {})),
        EvaluationCallback(evaluate_every_task=False),
    ]
    options = {**TRAINER_DEFAULTS, **config["trainer"], "default_root_dir": run}
    trainer = Trainer(**options, callbacks=callbacks, logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    return module


def contaminated(report: Report, config: dict[str, Any], share: float) -> None:
    """Oracle results of every product with a share of defective training images."""
    with tempfile.TemporaryDirectory() as folder:
        module = learn(config, share, Path(folder))
        with (Path(folder) / "report" / "scores.csv").open() as file:
            rows = list(csv.DictReader(file))
    evaluation = module.schedule.tasks[-1].evaluation
    assert evaluation is not None  # of a callback in `learn`
    for i, task in enumerate(module.schedule.tasks):
        limit = calibration_of(module, i).score_threshold.value
        above: dict[str, list[bool]] = {"0": [], "1": []}
        for row in rows:
            if row["task"] == task.name:
                above[row["gt_label"]].append(float(row["oracle_score"]) > limit)
        what = f"{share:.0%} defective, {task.name}"
        auroc = evaluation["metrics"]["image_auroc"]["oracle"][i]
        report.add(Row(f"{what}: image AUROC", auroc, ""))
        for name, label in (("false alarms", "0"), ("defective ones found", "1")):
            shown = 100 * sum(above[label]) / len(above[label])
            report.add(Row(f"{what}: {name}", shown, "%", note=f"of {len(above[label])}"))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    names = ["run", *OF_RUNS, "folds", "contamination", "localisation"]
    subjects = subject_parsers(parser, names)
    subjects["run"].add_argument("checkpoint", type=Path)
    for subject in OF_RUNS:
        subjects[subject].add_argument("run", type=Path, nargs="+")
    add_study_arguments(subjects["folds"])
    contamination = subjects["contamination"]
    contamination.add_argument("--config", default="demo", help="preset or file (%(default)s)")
    contamination.add_argument("--share", type=float, action="append", help=f"default: {SHARES}")
    localisation = subjects["localisation"]
    localisation.add_argument("run", type=Path, help="learned with calibration images")
    localisation.add_argument("--choose", nargs="+", required=True, metavar="PRODUCT")
    localisation.add_argument("--confirm", nargs="+", default=[], metavar="PRODUCT")
    return parser.parse_args()


def parts_of(given: argparse.Namespace) -> Iterator[Callable[[Report], None]]:
    """The parts of a subject."""
    if given.subject == "run":
        model, data = load_run(given.checkpoint)
        yield partial(judge_run, model=model, data=data)
    elif rows_of := OF_RUNS.get(given.subject):
        yield from (partial(Report.add_all, rows=rows_of(run)) for run in given.run)
    elif given.subject == "folds":
        for study, seed in product(studies_of(given), given.seeds or (0,)):
            yield partial(Report.add_all, rows=compare(study, seed))
    elif given.subject == "localisation":
        yield partial(localise, run=given.run, choose=given.choose, confirm=given.confirm)
    else:
        config = read_preset(given.config)
        for share in given.share or SHARES:
            yield partial(contaminated, config=config, share=share)


def main() -> int:
    """Measure, print."""
    given = parse()
    return benchmark(f"decisions {given.subject}", *parts_of(given))


if __name__ == "__main__":
    sys.exit(main())
