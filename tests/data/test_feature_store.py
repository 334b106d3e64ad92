import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from moleflow_pl._internal.schema import stamp
from moleflow_pl.data import feature_store as features
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.feature_store import FeatureStore, extract_features, features_key
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.errors import DataError, OutputError
from moleflow_pl.features.extractor import PatchExtractor


@pytest.fixture(scope="module")
def extractor() -> PatchExtractor:
    return PatchExtractor("test_vit", [0], 48, "random")


def loader_of(data_root: Path, product: str = "b") -> DataLoader:
    dataset = ImageDataset(MVTecLayout(data_root).train(product), 0, (48, 48))
    return DataLoader(dataset, batch_size=4, collate_fn=dataset.collate)


def test_stored_features_are_those_of_the_extractor_in_order(
    data_root: Path, extractor: PatchExtractor
) -> None:
    loader = loader_of(data_root)
    fresh = torch.cat([extractor(batch["image"]) for batch in loader])
    assert torch.equal(extract_features(extractor, loader, "test"), fresh)


@pytest.mark.parametrize("limit", [0, 2**30], ids=["mapped", "in memory"])
def test_kept_features_are_read_back_bit_for_bit(
    tmp_path: Path, data_root: Path, extractor: PatchExtractor, limit: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    loader = loader_of(data_root)
    fresh = extract_features(extractor, loader, "test")
    store = FeatureStore(tmp_path, keep=True, memory_limit=limit)
    assert torch.equal(store.get(extractor, loader, "miss"), fresh)
    monkeypatch.setattr(features, "fill", None)  # a hit runs no backbone
    assert torch.equal(store.get(extractor, loader, "hit"), fresh)
    store.clear()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npy"]


def test_features_over_the_limit_are_on_disk_until_they_are_let_go(
    tmp_path: Path, data_root: Path, extractor: PatchExtractor
) -> None:
    folder = tmp_path / "features"
    store = FeatureStore(folder, memory_limit=1000)
    kept = store.get(extractor, loader_of(data_root), "test")
    (path,) = folder.glob("*.npy")
    assert np.array_equal(np.load(path), kept.numpy())
    store.clear()
    assert not folder.exists()


def fill_share(rank: int, data_root: Path, folder: Path) -> None:
    """What one of two processes does; the images it ran the backbone on are written down."""
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    extractor = PatchExtractor("test_vit", [0], 48, "random")
    seen: list[int] = []
    hook = extractor.register_forward_hook(lambda _, images, __: seen.append(len(images[0])))
    extractor.shape  # noqa: B018  # looks at an image of its own
    seen.clear()
    store = FeatureStore(folder / "store", keep=True)
    for name in ("miss", "hit"):
        torch.save(store.get(extractor, loader_of(data_root), "test"), folder / f"{name}{rank}.pt")
    hook.remove()
    torch.save(seen, folder / f"seen{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow  # `tests/stories/test_devices.py` has two processes fill a file too
def test_ranks_fill_a_file_together_as_one_does(tmp_path: Path, data_root: Path) -> None:
    loader = loader_of(data_root)
    mp.spawn(fill_share, (data_root, tmp_path), nprocs=2)
    torch.manual_seed(0)
    fresh = extract_features(PatchExtractor("test_vit", [0], 48, "random"), loader, "test")
    for name in ("miss0", "miss1", "hit0", "hit1"):
        assert torch.equal(torch.load(tmp_path / f"{name}.pt", weights_only=True), fresh)
    seen = [torch.load(tmp_path / f"seen{rank}.pt", weights_only=True) for rank in (0, 1)]
    sizes = [len(batch["image"]) for batch in loader]
    assert seen == [sizes[0::2], sizes[1::2]]


def test_features_under_the_limit_leave_no_file(
    tmp_path: Path, data_root: Path, extractor: PatchExtractor
) -> None:
    FeatureStore(tmp_path / "x").get(extractor, loader_of(data_root), "test")
    assert not (tmp_path / "x").exists()


def test_key_follows_contents_backbone_and_preprocessing(
    tmp_path: Path, data_root: Path, extractor: PatchExtractor
) -> None:
    dataset = loader_of(data_root).dataset
    keys = {features_key(extractor, dataset)}
    keys.add(features_key(extractor, loader_of(data_root, "c").dataset))
    keys.add(features_key(PatchExtractor("test_vit", [1], 48, "random"), dataset))
    keys.add(features_key(PatchExtractor("test_vit", [0], 64, "random"), dataset))
    keys.add(features_key(PatchExtractor("test_vit", [0], 48, "random", smooth=3), dataset))
    assert len(keys) == 5


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


def replace_by_another(path: Path) -> None:
    """Put a good file of other images in its place, with what describes it."""
    other = path.with_stem("0" * 64)
    np.save(other, np.load(path)[::-1])
    features.describe(other)
    for suffix in (".npy", ".json"):
        other.with_suffix(suffix).replace(path.with_suffix(suffix))


def describe_as(text: str) -> Callable[[Path], object]:
    return lambda path: path.with_suffix(".json").write_text(text)


def save_and_describe(path: Path, numbers: np.ndarray) -> None:
    np.save(path, numbers)
    features.describe(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "emptied": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no features"),
    "archive": lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 100),
    "pickle": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    "a bit": flip,
    "zeros": lambda path: np.save(path, np.zeros_like(np.load(path))),
    "foreign": replace_by_another,
    "dtype": lambda path: save_and_describe(path, np.load(path).astype(np.float64)),
    "rows": lambda path: save_and_describe(path, np.load(path)[:-1]),
    "undescribed": lambda path: path.with_suffix(".json").unlink(),
    "description": describe_as("{"),
    "list": describe_as("[]"),
    "bytes": lambda path: path.with_suffix(".json").write_bytes(b"\xff" * 9),
    "nested": describe_as("[" * 20_000),
    "schema": describe_as('{"schema": 7, "version": "9"}'),
    "no hash": describe_as(json.dumps(stamp())),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_files_that_cannot_be_used_are_computed_again_with_one_warning(
    damage: Callable[[Path], object], tmp_path: Path, data_root: Path, extractor: PatchExtractor,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    loader, store = loader_of(data_root), FeatureStore(tmp_path, keep=True)
    fresh = store.get(extractor, loader, "test")
    (path,) = tmp_path.glob("*.npy")
    damage(path)
    assert torch.equal(store.get(extractor, loader, "test"), fresh)
    assert len(caplog.messages) == 1
    assert f"{path} cannot be used and is computed again: " in caplog.text
    assert len(caplog.messages[0].splitlines()) == 1
    assert torch.equal(store.get(extractor, loader, "test"), fresh)
    assert len(caplog.messages) == 1


def test_interrupted_extraction_leaves_no_half_file(
    tmp_path: Path, data_root: Path, extractor: PatchExtractor
) -> None:
    loader = loader_of(data_root)
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    loader.dataset.records[-1] = replace(loader.dataset.records[-1], path=broken)
    store = FeatureStore(tmp_path / "x", memory_limit=0)
    with pytest.raises(DataError, match="broken.png"):
        store.get(extractor, loader, "test")
    assert not list((tmp_path / "x").iterdir())


def test_full_disk_is_reported_before_the_backbone_runs(
    tmp_path: Path, data_root: Path, extractor: PatchExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.os, "posix_fallocate", full)
    store = FeatureStore(tmp_path / "x", memory_limit=0)
    with pytest.raises(DataError, match=r"no room for .* GB .*No space left.*data.feature_store"):
        store.get(extractor, loader_of(data_root), "test")
    assert not list((tmp_path / "x").iterdir())


def test_what_is_let_go_is_the_stores_own(tmp_path: Path) -> None:
    own = [f"{'0a' * 32}.{suffix}" for suffix in ("npy", "npy.123", "json")]
    theirs = ["x.npy", "x.json", f"{'0a' * 31}.npy", f"x{'0a' * 32}.npy", f"{'0a' * 32}.npy.txt"]
    for name in own + theirs:
        (tmp_path / name).touch()
    FeatureStore(tmp_path).clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(theirs)


def test_file_in_the_place_of_the_store_is_named(
    tmp_path: Path, data_root: Path, extractor: PatchExtractor
) -> None:
    (tmp_path / "store").touch()
    store = FeatureStore(tmp_path / "store", memory_limit=0)
    with pytest.raises(OutputError, match="store: it is a file; move it away"):
        store.get(extractor, loader_of(data_root), "test")
