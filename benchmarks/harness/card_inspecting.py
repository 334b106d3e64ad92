"""Inspecting on a device: speed, share of the card's peak, memory, layout, exported files.

For `benchmarks.gpu`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.cards import Card, Session, noise, operations
from moleflow_pl import MoLEFlow, PatchExtractor
from moleflow_pl.export.pipeline import export_checkpoint
from moleflow_pl.features.extractor import has_bfloat16

PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider")
MOST_SCORE = 1e-2  # relative difference of scores from the CPU's: TensorRT multiplies in TF32
LEAST_CHANNELS_LAST = 0.95


def learned(card: Card, side: int, products: int = 2) -> MoLEFlow:
    """A model with products learned from noise, without training."""
    model = card.model(side).to(card.device)
    model.schedule.extend([[f"product {i}"] for i in range(products)], epochs=1)
    for task in range(products):
        images: list[Any] = [{"image": noise(card, 8, side) // (1 + task)}]
        model.learner.begin_task(task)
        model.learner.prepare_task(task, images)
        model.learner.finish_task(task, images)
        model.schedule.tasks[task].epochs_done = 1
    return model.eval()


def inspecting(session: Session, card: Card) -> None:
    """Throughput of routing and scoring images of two products."""
    for side in card.sizes.sides:
        models: list[MoLEFlow] = []
        if not session.run(f"a model at {side}", lambda: models.append(learned(card, side))):  # noqa: B023
            continue
        for precision in ("float32", "bfloat16"):
            if precision == "bfloat16" and not has_bfloat16(card.device):
                continue
            models[0].inspector.extractor.precision = precision
            for batch in card.sizes.batches:
                name = f"inspecting at {side}, {precision}, {batch} at once"
                session.run(name, partial(one_speed, session, card, models[0], name, batch))


@torch.inference_mode()
def one_speed(session: Session, card: Card, model: MoLEFlow, name: str, batch: int) -> None:
    """One batch size: speed, memory, and the share of the card's peak."""
    inspector = model.inspector
    images = noise(card, batch, inspector.extractor.image_size[0])

    def work() -> None:
        inspector.inspect(inspector.extractor(images))

    memory = card.peak_mb(work)
    rate = batch * card.per_second(work)
    half = inspector.extractor.precision == "bfloat16"
    limit = card.limit(torch.bfloat16 if half else torch.float32)
    share = rate / batch * operations(work) / limit
    alone = batch * card.per_second(lambda: inspector.extractor(images))
    note = f"{share:.0%} of the card's limit, the backbone alone {alone:.0f} images/s"
    note += "" if memory is None else f", {memory:.0f} MiB"
    session.add(name, rate, "images/s", note=note)


@torch.inference_mode()
def channels_last(session: Session, card: Card) -> None:
    """Check that convolutional nets use the channels-last layout, and that it is faster."""
    side, batch = card.sizes.sides[0], card.sizes.batches[-1]
    extractor = PatchExtractor(card.sizes.cnn, [2, 3], side, "random").to(card.device)
    kernels = [p for p in extractor.backbone.parameters() if p.ndim == 4]
    last = sum(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    what = f"{card.sizes.cnn}: kernels with channels last"
    session.add(what, last / len(kernels), least=1, note=f"{len(kernels)} kernels")
    images = noise(card, batch, side)
    fast = card.per_second(lambda: extractor(images))
    plain = extractor.backbone.to(memory_format=torch.contiguous_format)
    floats = images.float()
    slow = card.per_second(lambda: plain.forward_intermediates(floats, intermediates_only=True))
    least = LEAST_CHANNELS_LAST if card.is_cuda else None
    session.add(f"{card.sizes.cnn}: speed over channels first", fast / slow, "x", least=least)


def exported(session: Session, card: Card, run: Path) -> None:
    """An exported file in the providers of ONNX Runtime that are installed."""
    import onnxruntime

    path = card.folder / "model.onnx"
    export_checkpoint(run / "last.ckpt", path)
    batch, side = card.sizes.batches[-1], card.sizes.sides[0]
    images = noise(card, batch, side).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    expected: list[Any] = []
    for provider in PROVIDERS:
        if provider not in onnxruntime.get_available_providers():
            session.add(f"exported file, {provider}", None, note="not installed")
            continue
        work = partial(one_provider, session, card, path, provider, images, expected)
        session.run(f"exported file, {provider}", work)


def one_provider(
    session: Session, card: Card, path: Path, provider: str, images: Any, expected: list[Any]
) -> None:
    """Speed of one provider, and difference of its scores from the CPU's."""
    import onnxruntime

    opened = onnxruntime.InferenceSession(path, providers=[provider, PROVIDERS[0]])
    used = opened.get_providers()[0]
    if used != provider:
        session.add(f"exported file, {provider}", None, note=f"{used} runs instead")
        return
    name = opened.get_inputs()[0].name
    work: Callable[[], Any] = lambda: opened.run(["score"], {name: images})[0]  # noqa: E731
    scores = torch.from_numpy(work()).double()
    expected.append(scores)
    apart = ((scores - expected[0]).abs().max() / expected[0].abs().max()).item()
    rate = len(images) * card.per_second(work)
    session.add(f"exported file, {provider}", rate, "images/s", note=f"{len(images)} at once")
    session.add(f"exported file, {provider}: scores from the CPU's", apart, most=MOST_SCORE)
