"""Files that are damaged at random, and what reading them comes to."""

import copy
import logging
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from moleflow_pl._internal.hashing import content_hash
from moleflow_pl._internal.torch_files import load_plain
from moleflow_pl.checkpoints.expert_edits import add, extract, remove
from moleflow_pl.checkpoints.experts import Expert
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.feature_store import FeatureStore
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.errors import MoLEFlowError
from moleflow_pl.export.pipeline import export_checkpoint
from moleflow_pl.export.runtimes import open_file
from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.model.restore import load_inspector
from tests.helpers.exporting import pixels_of
from tests.helpers.products import draw_product

KEPT = Path(__file__).parents[1] / "formats" / "schema1"
BLOCK = 2**16
REFUSED, SAME, OTHER, TRACEBACK, HANG, CRASH = OUTCOMES = (
    "refused", "same answer", "other answer", "traceback", "hang", "crash",
)  # fmt: skip


@dataclass
class Kind:
    """A kind of file.

    Attributes:
        name: What it is called.
        path: A good file, in a folder of its own with what belongs to it.
        use: Reads the file at a path, and gives its answer.
        edit: Changes one thing that the file says, and leaves its seal as it was.
    """

    name: str
    path: Path
    use: Callable[[Path], Any]
    edit: Callable[[Path, random.Random], None] | None = None


# ---------------------------------------------------------------- damage


def span(data: bytes, chance: random.Random, most: int = BLOCK) -> slice:
    start = chance.randrange(len(data))
    return slice(start, start + chance.randint(1, most))


def flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def zero(data: bytearray, chance: random.Random) -> None:
    part = span(data, chance)
    data[part] = bytes(len(data[part]))


def noise(data: bytearray, chance: random.Random) -> None:
    part = span(data, chance, 64)
    data[part] = chance.randbytes(len(data[part]))


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def drop(data: bytearray, chance: random.Random) -> None:
    del data[span(data, chance, 256)]


def repeat(data: bytearray, chance: random.Random) -> None:
    part = span(data, chance, 256)
    data[part.start : part.start] = data[part]


def exchange(data: bytearray, chance: random.Random) -> None:
    size = chance.randint(1, max(min(BLOCK, len(data) // 3), 1))
    one, other = (chance.randrange(max(len(data) - size, 1)) for _ in range(2))
    data[one : one + size], data[other : other + size] = (
        data[other : other + size], data[one : one + size],
    )  # fmt: skip


DAMAGES = (flip, flip, flip, zero, noise, cut, drop, repeat, exchange)


def damage(path: Path, chance: random.Random) -> None:
    """Damage the bytes of a file, or of one that lies beside it."""
    file = chance.choice(sorted(one for one in path.parent.iterdir() if one.is_file()))
    data = bytearray(file.read_bytes())
    chance.choice(DAMAGES)(data, chance)
    file.write_bytes(data)


# ---------------------------------------------------------------- edits


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where dictionaries and lists hold a tensor or a plain value."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, (dict, list)):
            yield from places(item)
        else:
            yield value, key


def edited(value: Any, chance: random.Random) -> Any:
    """Another tensor or value of the same kind."""
    if isinstance(value, Tensor):
        changes: list[Callable[[Tensor], Tensor]] = [
            lambda x: x * 1e30 if x.is_floating_point() else x + 1, lambda x: x.to(torch.int8),
            lambda x: torch.full_like(x.double(), math.nan), lambda x: x.double() / 0,
            lambda x: x.flatten(), lambda x: x.flip(0) if x.ndim else x + 1, torch.zeros_like,
            lambda x: x + torch.finfo(x.dtype).eps if x.is_floating_point() else x - 1,
        ]  # fmt: skip
        return chance.choice(changes)(value)
    if isinstance(value, bool) or value is None:
        return not value
    return value * 2 + 1 if isinstance(value, (int, float)) else f"{value}1"


def edit(content: Any, chance: random.Random) -> None:
    """Change or take away one thing in plain data with tensors."""
    parent, key = chance.choice(list(places(content)))
    if chance.random() < 0.1:
        del parent[key]
    else:
        parent[key] = edited(parent[key], chance)


def edit_checkpoint(path: Path, chance: random.Random) -> None:
    content = load_plain(path, mmap=False)
    part = chance.choice([content, content["state_dict"], content["moleflow"]])
    edit(part, chance)
    torch.save(content, path)


def edit_expert(path: Path, chance: random.Random) -> None:
    with safe_open(path, framework="pt") as file:
        text, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    edit(chance.choice([text, tensors]), chance)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, text)


def edit_features(path: Path, chance: random.Random) -> None:
    (file,) = path.parent.glob("*.npy")
    np.save(file, np.asarray(edited(torch.from_numpy(np.load(file)), chance)))


# ---------------------------------------------------------------- kinds


def probe() -> Tensor:
    return torch.from_numpy(np.load(KEPT / "probe.npy"))[:3]


@torch.no_grad()
def answer_of_model(path: Path) -> Any:
    model = load_inspector(path)
    found = model(probe())
    limits = [asdict(one.calibration.limits()) for one in model.schedule.tasks if one.calibration]
    return [found.score, found.distances, found.novelty_distance, limits]


def checkpoint(folder: Path) -> Kind:
    folder.mkdir()
    shutil.copy(KEPT / "last.ckpt", folder)
    return Kind("checkpoint", folder / "last.ckpt", answer_of_model, edit_checkpoint)


def expert(folder: Path) -> Kind:
    base = read_checkpoint(KEPT / "last.ckpt", mmap=False)
    extract(base, "b").save(folder / "b.safetensors")
    remove(base, "b")

    def use(path: Path) -> Any:
        into = copy.deepcopy(base)
        add(into, Expert.load(path))
        return into

    return Kind("expert file", folder / "b.safetensors", use, edit_expert)


class Heard(logging.Handler):
    """Counts warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def features(folder: Path) -> Kind:
    draw_product(folder.parent / "images", "a", 0, train=4)
    dataset = ImageDataset(MVTecLayout(folder.parent / "images").train("a"), 0, (48, 48))
    loader = DataLoader(dataset, batch_size=4, collate_fn=dataset.collate)
    extractor = PatchExtractor("test_vit", [0], 48, "random")
    expected = FeatureStore(folder, keep=True).get(extractor, loader, "")

    def use(path: Path) -> Any:
        logger, heard = logging.getLogger("moleflow_pl"), Heard()
        logger.addHandler(heard)
        try:
            found = FeatureStore(path.parent, keep=True).get(extractor, loader, "")
        finally:
            logger.removeHandler(heard)
        if heard.count == 1 and torch.equal(found, expected):
            raise MoLEFlowError("computed again, with one warning")
        return found

    return Kind("feature store", next(folder.glob("*.npy")), use, edit_features)


def export(folder: Path) -> Kind:
    images = folder.parent / "probe"
    draw_product(images, "a", 0, train=2)
    path = folder / "model.pt2"
    export_checkpoint(KEPT / "last.ckpt", path, "torch", images=str(images / "a" / "train"))
    return Kind("exported file", path, lambda path: open_file(path, "torch")(pixels_of(probe())))


KINDS = {"checkpoint": checkpoint, "expert": expert, "features": features, "export": export}


# ---------------------------------------------------------------- trials


def outcome(kind: Kind, path: Path, expected: str) -> tuple[str, str]:
    """What reading a file comes to, and what is said."""
    try:
        answer = content_hash(kind.use(path))
    except MoLEFlowError as error:
        one_line = len(str(error).splitlines()) == 1
        return (REFUSED if one_line else TRACEBACK), str(error)
    except Exception as error:
        return TRACEBACK, f"{type(error).__name__}: {error}"
    return (SAME if answer == expected else OTHER), ""


def mutate(kind: Kind, seed: int, where: Path) -> Path:
    """A copy of a kind's file with one mutation, which follows from the seed."""
    chance = random.Random(f"{kind.name} {seed}")
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(kind.path.parent, where)
    path = where / kind.path.name
    if kind.edit is not None and chance.random() < 0.4:
        kind.edit(path, chance)
    else:
        damage(path, chance)
    return path


def try_mutations(kind: Kind, seeds: range, where: Path) -> Counter[str]:
    """Mutate a kind's file by each seed, in this process; counts by outcome."""
    expected = content_hash(kind.use(kind.path))
    counts: Counter[str] = Counter()
    for seed in seeds:
        result, said = outcome(kind, mutate(kind, seed, where), expected)
        assert result in (REFUSED, SAME), (kind.name, seed, result, said)
        counts[result] += 1
    return counts
