"""Compares this project with its alternatives: anomalib's models on the same images.

    pip install -e '.[demo,peers]'      # in an environment of its own: it pins anomalib
    python -m benchmarks.peers --root DATA --weights vit_small_patch14_dinov2.safetensors

DATA holds `magnetic_tile`, or the products that `--products` names, in the layout of MVTec AD.
Peers use their documented defaults, and PatchCore also a coreset of 1 % instead of 10 %, whose
choice takes more than an hour on two cores. Those with our backbone get its weights; other
backbones are random without a network, so that only their times and sizes count, not their
accuracies. EfficientAD is missing: it needs downloads of its teacher and of ImageNette. All
thresholds come from the same calibration images, a fifth of the good images, which no peer learns
from. Models take turns: each learns once and is timed once in every round, and the table shows
medians over `--rounds`. Each step runs in a fresh process and writes a JSON file to `--folder`, so
that a stopped run resumes. Prints a table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.command_line import add_product_arguments, script_parser
from benchmarks.harness.measure import PeakMemory
from benchmarks.harness.products import (
    BATCH,
    ProductSource,
    evenly,
    loader_of,
    product_sources,
)
from benchmarks.harness.report import about, markdown_table
from benchmarks.harness.rivals import MAP, Rival, rivals
from moleflow_pl._internal.files import replacing
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.metrics.image import auroc
from moleflow_pl.metrics.task_scores import EvaluationOptions, TaskScores
from moleflow_pl.tasks.thresholds import limit

CALIBRATION_SHARE = 0.2  # of the good images, for the threshold
RATE = 0.01  # of false alarms
ALONE = 20  # images that are timed alone, and batches
ROUNDS = 5
EPOCHS = 20  # of FastFlow
SMALL = {"train_images": 8, "test_images": 6}
COLUMNS = (
    "", "product", "weights", "learn, s", "image AUROC", "pixel AP", "recall", "ms alone",
    "ms of 16", "peak MB", "MB on disk", "first decision, s",
)  # fmt: skip
Facts = dict[str, Any]
Makers = Mapping[str, Callable[[], Rival]]


def divided(source: ProductSource) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Training images and calibration images."""
    records = source.train()
    calibration = evenly(records, max(round(CALIBRATION_SHARE * len(records)), 1))
    paths = {record.path for record in calibration}
    return [record for record in records if record.path not in paths], calibration


def learn(rival: Rival, sources: Sequence[ProductSource], folder: Path) -> Facts:
    """Learn; the time and the peak of the memory."""
    products = {source.name: divided(source)[0] for source in sources}
    rival.start()
    with PeakMemory() as memory:
        started = time.perf_counter()
        rival.learn(products, folder)
        seconds = time.perf_counter() - started
    sizes = {name: rival.size(folder, name) for name in products}
    return {"seconds": seconds, "peak_mb": memory.peak_mb, "bytes": sizes, "weights": rival.weights}


def inspect(rival: Rival, source: ProductSource, folder: Path) -> Facts:
    """Accuracy on the test images."""
    with PeakMemory() as memory:
        rival.load(folder, source.name)
        calibration = divided(source)[1]
        bound = limit([rival.score([record.path])[0][0] for record in calibration], RATE)
        accuracy = accuracies(rival, source.test(), bound)
    return {**accuracy, "peak_mb": memory.peak_mb}


def timing(rival: Rival, source: ProductSource, folder: Path, started: float) -> Facts:
    """Seconds from the start of the process to the first decision, then the time of an image."""
    rival.load(folder, source.name)
    each = [record.path for record in source.test()][:ALONE]
    rival.score(each[:1])
    first = time.time() - started
    alone = median_ms([[path] for path in each], rival)
    batches = [[each[i % len(each)] for i in range(BATCH)] for _ in range(3)]
    together = median_ms(batches, rival) / BATCH
    return {"first_s": first, "ms_alone": alone, "ms_batch": together}


def median_ms(batches: Sequence[Sequence[Path]], rival: Rival) -> float:
    """Milliseconds of a batch."""
    seconds = []
    for batch in (batches[0], *batches):  # one to warm up
        started = time.perf_counter()
        rival.score(batch)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


def accuracies(rival: Rival, test: Sequence[ImageRecord], bound: float) -> Facts:
    """Image AUROC, pixel AP, and recall and false alarms at a threshold."""
    gathered = TaskScores(0, EvaluationOptions(map_size=MAP[0], blur_sigma=0.0))
    scores: list[float] = []
    for batch in loader_of(test, (8, 8), masks=True):  # images are read small: only masks count
        batch_scores, maps = rival.score([Path(path) for path in batch["path"]])
        zeros, values = torch.zeros(len(batch_scores)), torch.tensor(batch_scores)
        output = {
            "routed_task": zeros.long(), "router_distance": zeros, "distances": zeros[:, None],
            "routed_score": values, "oracle_score": values, "routed_map": maps, "oracle_map": maps,
        }  # fmt: skip
        gathered.update(batch, output)
        scores += batch_scores
    labels = torch.tensor([int(record.gt_label) for record in test])
    above = torch.tensor(scores, dtype=torch.float64) > bound
    good, defective = above[labels == 0], above[labels == 1]
    return {
        "image_auroc": auroc(torch.tensor(scores, dtype=torch.float64), labels),
        "pixel_ap": gathered.metrics()["values"]["pixel_ap"]["routed"],
        "recall": defective.double().mean().item() if len(defective) else None,
        "false_alarms": good.double().mean().item() if len(good) else None,
    }


def run_step(
    step: str, rival: Rival, sources: list[ProductSource], cell: Path, started: float
) -> Facts:
    """One step of a cell in this process."""
    kind, _, number = step.partition("-")
    if kind == "learn":
        if number == "0":
            return learn(rival, sources, cell / "model")
        with tempfile.TemporaryDirectory(dir=cell) as folder:  # only its time counts
            return learn(rival, sources, Path(folder) / "model")
    if kind == "inspect":
        return inspect(rival, sources[0], cell / "model")
    return timing(rival, sources[0], cell / "model", started)


def write_facts(path: Path, facts: Facts) -> None:
    """Write facts atomically: a stopped run resumes from them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "w") as file:
        file.write(json.dumps(facts))


def cell_of(folder: Path, name: str, sources: Sequence[ProductSource], settings: Facts) -> Path:
    """The folder of a cell, named by everything that it depends on."""
    about = json.dumps([name, [vars(source) for source in sources], settings], sort_keys=True)
    digest = hashlib.sha256(about.encode()).hexdigest()[:12]
    words = "".join(c if c.isalnum() else "-" for c in name)
    return folder / f"{words}-{'+'.join(source.name for source in sources)}-{digest}"


def steps_of(rounds: int, alone: bool) -> Iterator[str]:
    """The steps of a cell, in the order in which all models take them.

    Args:
        rounds: Number of rounds of learning and timing.
        alone: Whether the cell has one product; only then it is inspected and timed.
    """
    yield from (f"learn-{i}" for i in range(rounds))
    if alone:
        yield "inspect"
        yield from (f"time-{i}" for i in range(rounds))


def take(cell: Path, step: str, launch: Callable[[], object]) -> str:
    """Run a step unless its file exists; return why it failed, or an empty text."""
    if (cell / f"{step}.json").exists():
        return ""
    try:
        launch()
    except subprocess.CalledProcessError as error:
        return f"{step} failed with exit code {error.returncode}"
    return ""


def facts_of(cell: Path) -> Facts:
    """The facts of a cell: medians over the rounds, and the largest peak of the memory."""
    values_by_key: dict[str, list[Any]] = {}
    for path in sorted(cell.glob("*.json")):
        for key, value in json.loads(path.read_text()).items():
            values_by_key.setdefault(key, []).append(value)
    result = {key: values[0] for key, values in values_by_key.items()}
    for key in ("seconds", "first_s", "ms_alone", "ms_batch"):
        if key in values_by_key:
            result[key] = statistics.median(values_by_key[key])
    return {**result, "peak_mb": max(values_by_key["peak_mb"])}


def row(name: str, product: str, facts: Facts | str) -> list[str]:
    """A line of the table."""
    if isinstance(facts, str):
        return [name, product, facts, *[""] * (len(COLUMNS) - 3)]
    accuracies = [facts.get(key) for key in ("image_auroc", "pixel_ap", "recall")]
    times = [facts.get("ms_alone"), facts.get("ms_batch")]
    size = statistics.mean(facts["bytes"].values()) / 1e6
    first = facts.get("first_s")
    return [
        name, product, facts["weights"], f"{facts['seconds']:.1f}",
        *("" if value is None else f"{value:.3f}" for value in accuracies),
        *("" if value is None else f"{value:.1f}" for value in times),
        f"{facts['peak_mb']:.0f}", f"{size:.2f}", "" if first is None else f"{first:.1f}",
    ]  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    add_product_arguments(parser)
    parser.add_argument("--rivals", nargs="+", metavar="NAME", help="parts of names (all)")
    parser.add_argument("--weights", default="random", help="of DINOv2's ViT-S/14 (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of FastFlow (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/peers"), help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(%(default)s)")
    # of one step, in this process: its name, the model's, and when the process was started
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main(makers: Makers | None = None) -> int:
    """Measure what is not measured yet, print the table."""
    given = parse()
    makers = makers or rivals(given.weights, given.folder, given.epochs)
    limits = SMALL if given.small else {}
    sources = product_sources(given.products, given.root, **limits)
    settings = {"weights": given.weights, "epochs": given.epochs}
    if given.step is not None:
        step, name, started = given.step
        cell = cell_of(given.folder, name, sources, settings)
        facts = run_step(step, makers[name](), sources, cell, float(started))
        write_facts(cell / f"{step}.json", facts)
        return 0
    wanted = [n for n in makers if not given.rivals or any(part in n for part in given.rivals)]
    rows = []
    for part in [[source] for source in sources] + ([sources] if len(sources) > 1 else []):
        # what learns one product after another takes as long as the sum
        names = [n for n in wanted if len(part) == 1 or makers[n]().continual]
        rows += measured(names, part, given, settings)
    print(*markdown_table(COLUMNS, rows), "", sep="\n")
    print(json.dumps({**about("peers"), "settings": settings}))
    return int(any("failed" in cells[2] for cells in rows))


def measured(
    names: Sequence[str], sources: list[ProductSource], given: argparse.Namespace, settings: Facts
) -> list[list[str]]:
    """The lines of one product, or of all at once, by models that take turns."""
    cells = {name: cell_of(given.folder, name, sources, settings) for name in names}
    command = [sys.executable, "-m", "benchmarks.peers", *words_of(given, sources)]
    failed: dict[str, str] = {}

    def launch(step: str, name: str) -> None:
        words = [*command, "--step", step, name, str(time.time())]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    for step in steps_of(given.rounds, alone=len(sources) == 1):
        for name in [name for name in names if name not in failed]:
            reason = take(cells[name], step, partial(launch, step, name))
            failed |= {name: reason} if reason else {}
    product = "+".join(source.name for source in sources)
    return [row(name, product, failed.get(name) or facts_of(cells[name])) for name in names]


def words_of(given: argparse.Namespace, sources: Sequence[ProductSource]) -> list[str]:
    """The command line of a cell."""
    words = ["--products", *(source.name for source in sources), "--weights", given.weights]
    words += ["--epochs", str(given.epochs), "--folder", str(given.folder)]
    words += [] if given.root is None else ["--root", given.root]
    return [*words, "--small"] if given.small else words


if __name__ == "__main__":
    sys.exit(main())
