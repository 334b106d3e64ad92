"""Learning on a device: precisions, resuming, two processes, waits, copies, speed.

For `benchmarks.gpu`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.cards import SMALL, Card, Session, auroc_of, draw_products, noise
from benchmarks.harness.fits import new_trainer
from benchmarks.harness.waits import StepReads
from moleflow_pl import ContinualDataModule, MoLEFlow, Predictor
from moleflow_pl.checkpoints.io import read_checkpoint

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
MOST_AUROC = 0.005  # between precisions
MOST_WAITS = 1.0  # in a step: one, to check loss and gradient before the next step
SYNCHRONISING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
UNPINNED = "Pageable -> Device"
RANKS = 2


class StoppedError(Exception):
    """A fit was stopped on purpose."""


class StopAt(Callback):
    """Stops a fit at the start of an epoch, after the checkpoint of the one before."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Stop."""
        if trainer.current_epoch == self.epoch:
            raise StoppedError


class Profile(Callback):
    """Profiles the steps of the second epoch.

    Attributes:
        events: How often each operation was seen.
        steps: Number of steps.
    """

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.steps = 0
        self._profile: profile | None = None

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin, or end before the last step."""
        if trainer.current_epoch != 1:
            return
        if batch_idx == 0:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if module.device.type == "cuda" else []
            self._profile = profile(activities=activities)
            self._profile.__enter__()
        elif self._profile is not None:
            self.steps += 1
            if batch_idx + 1 == trainer.num_training_batches:
                self._profile.__exit__(None, None, None)
                self.events = {e.key: e.count for e in self._profile.key_averages()}
                self._profile = None


def learn(
    card: Card, run: Path, *callbacks: Callback, checkpoint: Path | None = None,
    weights: str | None = None, **options: Any,
) -> MoLEFlow:  # fmt: skip
    """Learn the synthetic products."""
    root = card.folder / "data"
    if not root.exists():
        draw_products(root, card)
    chosen = {} if weights is None else {"backbone_weights": weights}
    model = card.model(card.sizes.sides[0], **chosen)
    data = ContinualDataModule(str(root), list(card.products), num_workers=0, batch_size=4)
    trainer = new_trainer(
        run, card.sizes.epochs, callbacks, accelerator=card.accelerator, **options
    )
    trainer.fit(model, data, ckpt_path=checkpoint)
    return model


def scores_of(card: Card, run: Path, weights: str | None = None) -> dict[str, list[float]]:
    """Scores of the test images of all products by a run."""
    predictor = Predictor.load(run, device=card.device, backbone_weights=weights)
    root = card.folder / "data"
    places = {"good": "*/test/good/*.png", "defective": "*/test/square/*.png"}
    return {
        kind: [prediction.score for prediction in predictor(sorted(root.glob(place)))]
        for kind, place in places.items()
    }


def precisions(session: Session, card: Card, weights: str | None) -> None:
    """Fits in every precision, with random weights and with given ones."""
    for name, file in (("random", None), ("given", weights)):
        if name == "given" and file is None:
            session.add("given weights", None, note="give them by --weights")
            continue
        aurocs: dict[str, float] = {}
        for precision in PRECISIONS:
            what = f"{name} weights, {precision}"
            session.run(what, partial(one_precision, session, card, what, precision, file, aurocs))


def one_precision(
    session: Session, card: Card, what: str, precision: str, weights: str | None,
    aurocs: dict[str, float],
) -> None:  # fmt: skip
    """One fit: its numbers are finite, and its AUROC is that of float32."""
    run = card.folder / what.replace(" ", "-").replace(",", "")
    model = learn(card, run, weights=weights, precision=precision)
    values = [*model.inspector.flow.state_dict().values()]
    scores = scores_of(card, run, weights)
    broken = sum(not value.isfinite().all() for value in values)
    broken += sum(not torch.tensor(part).isfinite().all() for part in scores.values())
    session.add(f"{what}: tensors that are not finite", broken, most=0)
    aurocs[precision] = auroc_of(scores)
    apart = abs(aurocs[precision] - aurocs.get(PRECISIONS[0], float("nan")))
    note = f"image AUROC {aurocs[precision]:.4f}"
    session.add(f"{what}: AUROC from that of float32", apart, most=MOST_AUROC, note=note)


def resuming(session: Session, card: Card) -> None:
    """A resumed fit gives equal numbers, bit for bit."""
    straight, stopped = card.folder / "straight", card.folder / "stopped"
    learn(card, straight)
    try:
        learn(card, stopped, StopAt(card.sizes.epochs + 1))  # within the second product
    except StoppedError:
        learn(card, stopped, checkpoint=stopped / "last.ckpt")
    session.add("tensors that differ after a resume", differing(straight, stopped), most=0)


def differing(*runs: Path) -> int:
    """How many tensors of two runs are not equal bit for bit."""
    first, second = (read_checkpoint(run / "last.ckpt")["state_dict"] for run in runs)
    return sum(not torch.equal(first[key], second[key]) for key in first)


def ranks(session: Session, card: Card, command: list[str]) -> None:
    """Two processes with NCCL learn the same as one."""
    what = "two processes by NCCL: scores from those of one"
    count = torch.cuda.device_count() if card.is_cuda else 0
    if count < RANKS:
        session.add(what, None, note=f"{count} GPUs")
        return
    learn(card, card.folder / "one-process")
    limit = max(session.seconds_left, 1)
    sizes = ["--small"] if card.sizes is SMALL else []
    arguments = [sys.executable, *command, str(card.folder), *sizes]
    subprocess.run(arguments, check=True, timeout=limit)
    parts = [scores_of(card, card.folder / run) for run in ("one-process", "two-processes")]
    a, b = (torch.tensor([*part["good"], *part["defective"]]) for part in parts)
    session.add(what, ((a - b).abs().max() / a.abs().max()).item(), most=0.02)


def learn_as_rank(card: Card) -> None:
    """What each of the two processes does."""
    run = card.folder / "two-processes"
    learn(card, run, devices=RANKS, strategy="ddp", use_distributed_sampler=False)


def waits(session: Session, card: Card) -> None:
    """Where a training step waits for the device, and what it copies."""
    seen, reads = Profile(), StepReads()
    learn(card, card.folder / "profiled", seen)
    learn(card, card.folder / "read", reads)
    places = ", ".join(f"{place} {n / reads.steps:.2g}" for place, n in reads.places.items())
    what = "numbers read back in a training step"
    # a CPU has no host apart from it: there, the task of a batch counts
    session.add(what, reads.per_step, most=MOST_WAITS + (not card.is_cuda), note=places)
    steps = max(seen.steps, 1)
    if not card.is_cuda:
        session.add("waits in a training step, by the profiler", None, note="no GPU")
        return
    stops = {name: seen.events.get(name, 0) / steps for name in SYNCHRONISING}
    note = ", ".join(f"{name} {count:.2g}" for name, count in stops.items() if count)
    what = "waits in a training step, by the profiler"
    session.add(what, sum(stops.values()), most=MOST_WAITS, note=note)
    unpinned = sum(count for key, count in seen.events.items() if UNPINNED in key) / steps
    session.add("copies of memory that is not pinned, in a step", unpinned, most=0)


def pinned(session: Session, card: Card) -> None:
    """Batches lie in pinned memory."""
    if not card.is_cuda:
        session.add("batches in pinned memory", None, note="no GPU")
        return
    model = card.model(card.sizes.sides[0]).to(card.device)
    data = ContinualDataModule(str(card.folder / "data"), list(card.products), num_workers=0)
    data.follow(model.data_plan, card.folder / "features")
    model.schedule.extend([[name] for name in card.products], epochs=1)
    batches: Iterator[dict[str, Tensor]] = iter(data.train_loader_in_order(0))
    tensors = [value for value in next(batches).values() if isinstance(value, Tensor)]
    shares = sum(tensor.is_pinned() for tensor in tensors) / len(tensors)
    session.add("batches in pinned memory", shares, least=1)


def learning(session: Session, card: Card) -> None:
    """Throughput of training steps on stored features."""
    for side in card.sizes.sides:
        for batch in card.sizes.batches:
            name = f"learning at {side}, {batch} at once"
            session.run(name, partial(one_speed, session, card, name, side, batch))


def one_speed(session: Session, card: Card, name: str, side: int, batch: int) -> None:
    """One size of images and batches."""
    model = card.model(side).to(card.device)
    model.schedule.extend([["first"]], epochs=1)
    model.learner.begin_task(0)
    model.learner.prepare_task(0, [{"image": noise(card, 4, side)}])
    height, width, wide = model.inspector.extractor.shape
    count = max(height * width // 4, 1)  # a quarter of the patches
    features = torch.randn(batch, count, wide, device=card.device)
    patches = torch.stack([torch.randperm(height * width)[:count] for _ in range(batch)])
    stored: Any = {"features": features, "patches": patches.to(card.device)}
    stored["grid"] = (height, width)
    parameters = model.inspector.flow.parameters_for(0)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model.learner.loss(stored, 0)[0].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()

    memory = card.peak_mb(step)
    note = "" if memory is None else f"{memory:.0f} MiB"
    session.add(name, batch * card.per_second(step), "images/s", note=note)
