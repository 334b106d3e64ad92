"""One interface to MoLE-Flow and to models of anomalib, to compare them.

For `benchmarks.peers`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.harness.fits import learn
from benchmarks.harness.plans import BACKBONES, Backbone
from benchmarks.harness.products import link_images
from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl.checkpoints.expert_edits import extract
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.features.backbone import load_in_order, weights_file
from moleflow_pl.scoring.functional import anomaly_map

MAP = (256, 256)  # size of every map, as in the pixel metrics
TRAIN_BATCH = 32  # anomalib's default
SEED = 0
LITE0 = "tf_efficientnet_lite0"
DINO = "vit_small_patch14_dinov2"
Scores = tuple[list[float], Tensor]  # of images, and their maps (B, 256, 256)


class Rival(Protocol):
    """A model that learns products from good images, and scores images of one of them."""

    weights: str  # the weights of its backbone, in words
    continual: bool  # whether one model learns all products

    def start(self) -> None:
        """Import its libraries, which is not part of learning."""

    def learn(self, products: Mapping[str, Sequence[ImageRecord]], folder: Path) -> None:
        """Learn one product, or several if `continual`, and write the model into a folder."""

    def load(self, folder: Path, product: str) -> None:
        """Read the model of a product."""

    def score(self, paths: Sequence[Path]) -> Scores:
        """Score image files, all at once."""

    def size(self, folder: Path, product: str) -> int:
        """Bytes that a product takes on disk besides the shared part."""


@dataclass
class Ours:
    """MoLE-Flow with its default method on a backbone of the studies."""

    backbone: Backbone
    weights: str
    epochs: int | None = None
    continual: bool = True
    _predictor: Predictor | None = None

    def start(self) -> None:
        """Nothing to import."""

    def learn(self, products: Mapping[str, Sequence[ImageRecord]], folder: Path) -> None:
        """One fit of all products."""
        root, method = folder / "images", self.backbone.method
        for name, records in products.items():
            link_images(records, root / name)
        torch.manual_seed(SEED)
        arguments = {**self.backbone.arguments, **method.model}
        # the calibration images are the same for all rivals, and not among these images
        learn(
            MoLEFlow(**arguments), root, folder, list(products), self.epochs or method.epochs,
            layout="folder", num_workers=0, val_fraction=0.0,
        )  # fmt: skip

    def load(self, folder: Path, product: str) -> None:
        """The predictor of the run."""
        self._predictor = Predictor.load(folder)

    def score(self, paths: Sequence[Path]) -> Scores:
        """Routed scores, and maps as in evaluations."""
        assert self._predictor is not None
        predictions = list(self._predictor.stream(list(paths), len(paths)))
        maps = anomaly_map(torch.stack([p.patch_scores for p in predictions]), MAP)
        return [p.score for p in predictions], maps

    def size(self, folder: Path, product: str) -> int:
        """The expert's file, as sites exchange it."""
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "expert.safetensors"
            extract(read_checkpoint(folder / "last.ckpt"), product).save(path)
            return path.stat().st_size


@dataclass
class Anomalib:
    """A model of anomalib: its own network and preprocessing in a plain loop.

    Its trainer, loaders, metrics and pictures are left out, which makes it faster.

    Attributes:
        kind: Class in `anomalib.models`.
        files: Weights by the name of a timm model; other backbones are random.
        options: Arguments that differ from the defaults.
        epochs: Passes over the images; with more than one, its own optimizer takes steps.
    """

    kind: str
    files: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 1
    continual: bool = False
    weights: str = "random"
    _module: Any = None

    def start(self) -> None:
        """Import anomalib."""
        import_module("anomalib.models")

    def build(self) -> Any:
        """A new model of the class."""
        torch.manual_seed(SEED)
        make = getattr(import_module("anomalib.models"), self.kind)
        with offline(self.files):
            return make(post_processor=False, evaluator=False, visualizer=False, **self.options)

    def learn(self, products: Mapping[str, Sequence[ImageRecord]], folder: Path) -> None:
        """Pass the images through its network in training, then let it finish."""
        (records,) = products.values()
        self._module = module = self.build()
        module.model.train()
        paths, generator = [r.path for r in records], torch.Generator().manual_seed(SEED)
        optimizer = module.configure_optimizers()
        for _ in range(self.epochs):
            order = torch.randperm(len(paths), generator=generator).split(TRAIN_BATCH)
            for chosen in order:
                self._step(optimizer, self.prepare([paths[i] for i in chosen.tolist()]))
        if optimizer is None:
            with torch.no_grad():
                module.fit()
        folder.mkdir(parents=True, exist_ok=True)
        state = module.model.state_dict()
        own = {k: v.clone() for k, v in state.items() if not k.startswith("feature_e")}
        torch.save(own, folder / "model.pt")

    def _step(self, optimizer: torch.optim.Optimizer | None, images: Tensor) -> None:
        """One batch: remembered, or learned from."""
        if optimizer is None:
            with torch.no_grad():
                self._module.model(images)
            return
        optimizer.zero_grad()
        self._module.loss(*self._module.model(images)).backward()
        optimizer.step()

    def prepare(self, paths: Sequence[Path]) -> Tensor:
        """Images as its network takes them."""
        prepared = []
        for path in paths:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
            prepared.append(self._module.pre_processor.transform(tensor[None]))
        return torch.cat(prepared)

    def load(self, folder: Path, product: str) -> None:
        """A new model with what was learned."""
        self._module = self.build().eval()
        state = torch.load(folder / "model.pt", weights_only=True)
        self._module.model.load_state_dict(state, strict=False)

    def score(self, paths: Sequence[Path]) -> Scores:
        """Its score and its map."""
        with torch.inference_mode():
            output = self._module.model(self.prepare(paths))
        maps = output.anomaly_map.reshape(len(paths), 1, *output.anomaly_map.shape[-2:])
        scores = output.pred_score.flatten().double().tolist()
        return scores, F.interpolate(maps, MAP, mode="bilinear", align_corners=False)[:, 0]

    def size(self, folder: Path, product: str) -> int:
        """Its file, without the backbone."""
        return (folder / "model.pt").stat().st_size


@contextmanager
def offline(files: Mapping[str, str]) -> Iterator[None]:
    """Within the block, timm loads weights from files, or random ones, without a network.

    Args:
        files: By the name of a model.
    """
    create = timm.create_model

    def build(name: str, pretrained: bool = False, **options: Any) -> Any:
        file = files.get(name.partition(".")[0]) if pretrained else None
        options = {key: value for key, value in options.items() if key != "pretrained_cfg"}
        if file is not None:
            options["pretrained_cfg_overlay"] = {"file": file}
        return create(name, pretrained=file is not None, **options)

    timm.create_model = build
    try:
        yield
    finally:
        timm.create_model = create


def packaged_weights(folder: Path) -> str:
    """The small CNN's weights of its package, under timm's names, in a file."""
    path = folder / f"{LITE0}.safetensors"
    if not path.exists():
        model = timm.create_model(LITE0, pretrained=False)
        arguments = BACKBONES["cnn"].arguments
        load_in_order(model, weights_file(arguments["backbone_weights"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)
    return str(path)


def rivals(weights: str, folder: Path, epochs: int) -> dict[str, Callable[[], Rival]]:
    """Builders of all rivals, by name.

    Args:
        weights: A file of DINOv2's ViT-S/14, or `random`.
        folder: Where the small CNN's weights go.
        epochs: Epochs of FastFlow, whose default stops by a metric on the test images.
    """
    dino = {} if weights == "random" else {DINO: weights}
    same, lite = "as ours", {"backbone": LITE0, "layers": [2, 3]}

    def cnn(kind: str, **options: Any) -> Anomalib:
        files = {LITE0: packaged_weights(folder)}
        return Anomalib(kind, files, {**lite, **options}, weights=same)

    return {
        "ours, ViT-S at 224": lambda: Ours(BACKBONES["vit"].with_weights(weights), same),
        "ours, Lite0 at 256": lambda: Ours(BACKBONES["cnn"], same),
        "AnomalyDINO, ViT-S at 252": lambda: Anomalib("AnomalyDINO", dino, weights=same),
        "PatchCore, Lite0 at 256": lambda: cnn("Patchcore"),
        "PatchCore 1 %, Lite0 at 256": lambda: cnn("Patchcore", coreset_sampling_ratio=0.01),
        "PaDiM, Lite0 at 256": lambda: cnn("Padim", n_features=100),
        "PatchCore, Wide ResNet-50": lambda: Anomalib("Patchcore", {}),
        "PaDiM, ResNet-18": lambda: Anomalib("Padim", {}),
        "FastFlow, ResNet-18": lambda: Anomalib("Fastflow", {}, epochs=epochs),
    }
