"""What one would pick instead, beside this project: anomalib's models on the same images.

    pip install -e '.[demo,peers]'      # in an environment of its own: it pins anomalib
    python -m benchmarks.peers --root DATA --weights vit_small_patch14_dinov2.safetensors

DATA holds `magnetic_tile`, or the products that `--products` names, in the layout of MVTec AD.
Peers have their documented defaults; where they take our backbone, they get its weights, and other
backbones are random, for there is no network: of those, times and sizes count, not accuracies.
EfficientAD is missing: its teacher and ImageNette have to be downloaded. All thresholds come from
the same good images, a fifth of those there are, which nobody learns from. Each step of each cell
runs in a fresh process and leaves a JSON file in `--folder`: a stopped run goes on. Prints a table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.harness.measure import PeakMemory
from benchmarks.harness.plans import PRODUCTS
from benchmarks.harness.products import ProductSource, evenly, product_sources
from benchmarks.harness.report import markdown_table
from benchmarks.harness.rivals import MAP, Rival, rivals
from moleflow_pl._internal.files import replacing
from moleflow_pl._internal.provenance import hardware, versions
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.metrics.image import auroc
from moleflow_pl.metrics.task_scores import EvaluationOptions, TaskScores
from moleflow_pl.tasks.thresholds import limit

HELD_BACK = 0.2  # share of the good images, for the threshold
RATE = 0.01  # of false alarms
BATCH = 16
ALONE = 20  # images that are timed alone, and batches
STEPS = ("learn", "inspect", "first")
EPOCHS = 20  # of FastFlow
SMALL = {"train_images": 8, "test_images": 6}
COLUMNS = (
    "", "product", "weights", "learn, s", "image AUROC", "pixel AP", "recall", "ms alone",
    "ms of 16", "peak MB", "MB on disk", "first decision, s",
)  # fmt: skip
Facts = dict[str, Any]
Makers = Mapping[str, Callable[[], Rival]]


def divided(source: ProductSource) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Good images to learn from, and those that are held back for the threshold."""
    records = source.train()
    held = evenly(records, max(round(HELD_BACK * len(records)), 1))
    paths = {record.path for record in held}
    return [record for record in records if record.path not in paths], held


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
    """Accuracy on the test images, and the time of an image."""
    test, held = source.test(), divided(source)[1]
    with PeakMemory() as memory:
        rival.load(folder, source.name)
        bound = limit([rival.score([record.path])[0][0] for record in held], RATE)
        accuracy = accuracies(rival, test, bound)
        each = [record.path for record in test][:ALONE]
        alone = median_ms([[path] for path in each], rival)
        batches = [[each[i % len(each)] for i in range(BATCH)] for _ in range(3)]
        together = median_ms(batches, rival) / BATCH
    return {**accuracy, "ms_alone": alone, "ms_batch": together, "peak_mb": memory.peak_mb}


def median_ms(batches: Sequence[Sequence[Path]], rival: Rival) -> float:
    """Milliseconds of a batch."""
    seconds = []
    for batch in (batches[0], *batches):  # one to warm up
        started = time.perf_counter()
        rival.score(batch)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


def accuracies(rival: Rival, test: Sequence[ImageRecord], bound: float) -> Facts:
    """Image AUROC, pixel AP, and what a threshold finds and cries wolf at."""
    gathered = TaskScores(0, EvaluationOptions(map_size=MAP[0], blur_sigma=0.0))
    masks = ImageDataset(test, 0, (8, 8), masks=True)  # images are read small: only masks count
    scores: list[float] = []
    for batch in DataLoader(masks, BATCH, collate_fn=masks.collate):
        found, maps = rival.score([Path(path) for path in batch["path"]])
        zeros, values = torch.zeros(len(found)), torch.tensor(found)
        output = {
            "routed_task": zeros.long(), "router_distance": zeros, "distances": zeros[:, None],
            "routed_score": values, "oracle_score": values, "routed_map": maps, "oracle_map": maps,
        }  # fmt: skip
        gathered.update(batch, output)
        scores += found
    labels = torch.tensor([int(record.gt_label) for record in test])
    above = torch.tensor(scores, dtype=torch.float64) > bound
    good, defective = above[labels == 0], above[labels == 1]
    return {
        "image_auroc": auroc(torch.tensor(scores, dtype=torch.float64), labels),
        "pixel_ap": gathered.metrics()["values"]["pixel_ap"]["routed"],
        "recall": defective.double().mean().item() if len(defective) else None,
        "false_alarms": good.double().mean().item() if len(good) else None,
    }


def first(rival: Rival, source: ProductSource, folder: Path) -> None:
    """One decision; whoever started the process measures the time."""
    rival.load(folder, source.name)
    rival.score([source.test()[0].path])


def run_step(
    step: str, makers: Makers, name: str, sources: list[ProductSource], cell: Path
) -> None:
    """One step of a cell in this process; writes its facts."""
    rival, folder = makers[name](), cell / "model"
    if step == "first":
        first(rival, sources[0], folder)
    elif step == "learn":
        write_facts(cell / "learn.json", learn(rival, sources, folder))
    else:
        write_facts(cell / "inspect.json", inspect(rival, sources[0], folder))


def write_facts(path: Path, facts: Facts) -> None:
    """Write facts whole or not at all: a stopped run goes on from them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "w") as file:
        file.write(json.dumps(facts))


def cell_of(folder: Path, name: str, sources: Sequence[ProductSource], settings: Facts) -> Path:
    """The folder of a cell, named by all that it depends on."""
    about = json.dumps([name, [vars(source) for source in sources], settings], sort_keys=True)
    digest = hashlib.sha256(about.encode()).hexdigest()[:12]
    words = "".join(c if c.isalnum() else "-" for c in name)
    return folder / f"{words}-{'+'.join(source.name for source in sources)}-{digest}"


def measure(
    cell: Path, steps: Sequence[str], launch: Callable[[str], object]
) -> dict[str, Facts] | str:
    """The facts of a cell, by step, from their files where they are there; or why not."""
    for step in steps:
        path = cell / f"{step}.json"
        if path.exists():
            continue
        started = time.perf_counter()
        try:
            launch(step)
        except subprocess.CalledProcessError as error:
            return f"{step} failed with exit code {error.returncode}"
        if step == "first":
            write_facts(path, {"seconds": time.perf_counter() - started})
    return {step: json.loads((cell / f"{step}.json").read_text()) for step in steps}


def row(name: str, product: str, found: Mapping[str, Facts] | str) -> list[str]:
    """A line of the table."""
    if isinstance(found, str):
        return [name, product, found, *[""] * (len(COLUMNS) - 3)]
    learned, seen, start = (found.get(step, {}) for step in STEPS)
    size = statistics.mean(learned["bytes"].values()) / 1e6
    values = [seen.get(key) for key in ("image_auroc", "pixel_ap", "recall")]
    times = [seen.get("ms_alone"), seen.get("ms_batch")]
    peak = max(facts.get("peak_mb", 0.0) for facts in (learned, seen))
    return [
        name, product, learned["weights"], f"{learned['seconds']:.1f}",
        *("" if value is None else f"{value:.3f}" for value in values),
        *("" if value is None else f"{value:.1f}" for value in times),
        f"{peak:.0f}", f"{size:.2f}", f"{start['seconds']:.1f}" if start else "",
    ]  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="data set in the layout of MVTec AD")
    parser.add_argument("--products", nargs="+", default=list(PRODUCTS), metavar="PRODUCT")
    parser.add_argument("--rivals", nargs="+", metavar="NAME", help="parts of names (all)")
    parser.add_argument("--weights", default="random", help="of DINOv2's ViT-S/14 (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of FastFlow (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/peers"), help="(%(default)s)")
    parser.add_argument("--small", action="store_true", help="few images: to see that it runs")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)  # of one cell, in this process
    return parser.parse_args()


def main(makers: Makers | None = None) -> int:
    """Measure what is not measured yet, print the table."""
    given = parse()
    makers = makers or rivals(given.weights, given.folder, given.epochs)
    limits = SMALL if given.small else {}
    sources = product_sources(given.products, given.root, **limits)
    settings = {"weights": given.weights, "epochs": given.epochs}
    wanted = [n for n in makers if not given.rivals or any(part in n for part in given.rivals)]
    if given.step is not None:
        step, name = given.step
        run_step(step, makers, name, sources, cell_of(given.folder, name, sources, settings))
        return 0
    rows = []
    for name in wanted:
        for part in [[source] for source in sources] + ([sources] if len(sources) > 1 else []):
            product = "+".join(source.name for source in part)
            found = measured(name, part, makers, given, settings)
            if found is not None:
                rows.append(row(name, product, found))
                print(" | ".join(rows[-1]), flush=True)
    print(*markdown_table(COLUMNS, rows), "", sep="\n")
    print(json.dumps({"hardware": hardware(), "versions": versions(), "settings": settings}))
    return int(any("failed" in cells[2] for cells in rows))


def measured(
    name: str, sources: list[ProductSource], makers: Makers, given: argparse.Namespace,
    settings: Facts,
) -> dict[str, Facts] | str | None:  # fmt: skip
    """A cell of one product, or the learning of all at once by who can."""
    if len(sources) > 1 and not makers[name]().continual:
        return None  # as long as one after another
    cell = cell_of(given.folder, name, sources, settings)
    command = [sys.executable, "-m", "benchmarks.peers", *words_of(given, sources)]

    def launch(step: str) -> None:
        subprocess.run([*command, "--step", step, name], check=True, stdout=subprocess.DEVNULL)

    return measure(cell, STEPS if len(sources) == 1 else STEPS[:1], launch)


def words_of(given: argparse.Namespace, sources: Sequence[ProductSource]) -> list[str]:
    """The command line of a cell."""
    words = ["--products", *(source.name for source in sources), "--weights", given.weights]
    words += ["--epochs", str(given.epochs), "--folder", str(given.folder)]
    words += [] if given.root is None else ["--root", given.root]
    return [*words, "--small"] if given.small else words


if __name__ == "__main__":
    sys.exit(main())
