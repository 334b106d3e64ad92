import gc
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.data.images import ImageFile
from moleflow_pl.data.predict_dataset import identity_of
from moleflow_pl.errors import DataError, MoLEFlowError
from tests.helpers.models import TINY_MODEL
from tests.helpers.products import draw_product


def data_for(root: Path, tasks: list, fn: str = "fit", **options: object) -> ContinualDataModule:
    """A data module that follows a small model with the same tasks."""
    data = ContinualDataModule(str(root), tasks, **{"num_workers": 0, **options})
    module = MoLEFlow(**TINY_MODEL)
    module.schedule.extend(data.groups, epochs=2)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=fn))  # type: ignore[assignment]
    data.follow(module.data_plan, root / "run" / "features")
    return data


def test_training_batches_are_the_current_tasks_alone(data_root: Path) -> None:
    data = data_for(data_root, ["01", ["b", "c"]], batch_size=4)
    schedule = data.plan.schedule
    for task, products in ((0, {"01"}), (1, {"b", "c"})):
        batches = list(data.train_dataloader())
        assert {t for b in batches for t in b["task"].tolist()} == {task}
        assert {p for b in batches for p in b["product"]} == products
        schedule.tasks[task].epochs_done = 2


def test_order_changes_by_epoch_and_repeats_by_seed(data_root: Path) -> None:
    def order(epoch: int) -> list[str]:
        data = data_for(data_root, ["01"])
        data.plan.schedule.tasks[0].epochs_done = epoch
        return [path for batch in data.train_dataloader() for path in batch["path"]]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1))


def test_each_epoch_sees_other_patches_and_the_task_is_closed_on_all(data_root: Path) -> None:
    data = data_for(data_root, ["01"])
    data.plan.patch_fraction = 4 / 9

    def drawn(epoch: int) -> dict[str, list[int]]:
        data.plan.schedule.tasks[0].epochs_done = epoch
        batches = list(data.train_dataloader())
        assert all(batch["features"].shape[1:] == (4, 64) for batch in batches)
        return {
            p: n for b in batches for p, n in zip(b["path"], b["patches"].tolist(), strict=True)
        }

    assert drawn(0) == drawn(0)
    assert all(drawn(0)[path] != places for path, places in drawn(1).items())
    assert all(batch["features"].shape[1:] == (3, 3, 64) for batch in data.train_loader_in_order(0))


def test_features_are_computed_once_for_each_variant_of_an_image(data_root: Path) -> None:
    data = data_for(data_root, ["01"], variants=["hflip", "darker"], val_fraction=0.5)
    loader = data.train_loader_in_order(0)
    stored, extractor = loader.dataset.features, data.plan.extractor  # type: ignore[attr-defined]
    images = torch.cat([batch["image"] for batch in data.calibration_images(0) or ()])
    plain = data_for(data_root, ["01"], val_fraction=0.5, cache_features=False)
    unchanged = torch.cat([batch["image"] for batch in plain.train_loader_in_order(0)])
    count = len(unchanged)
    assert len(stored) == 3 * count
    for part, image in ((stored[:count], unchanged), (stored[count::2], unchanged.flip(-1))):
        torch.testing.assert_close(part, extractor(image), atol=1e-4, rtol=1e-4)
    assert len(next(iter(data.originals_in_order(0)))["path"]) == min(count, data.batch_size)
    calibration = torch.cat([batch["image"] for batch in plain.calibration_images(0) or ()])
    assert torch.equal(images[0], calibration[0])
    assert torch.equal(images[1], calibration[1].flip(-1))


def test_a_variant_of_a_product_belongs_to_its_split(data_root: Path) -> None:
    hashes = [
        data_for(data_root, ["01", "b"], variants=variants).split_hash(0)
        for variants in (None, {"b": ["hflip"]}, {"01": ["hflip"]}, ["hflip"])
    ]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


def test_features_of_a_task_are_shared_by_its_epochs_and_freed_with_the_next_task(
    data_root: Path,
) -> None:
    data = data_for(data_root, ["01", "b"])
    first, again = (data.train_dataloader().dataset for _ in range(2))  # type: ignore[union-attr]
    assert first.features.data_ptr() == again.features.data_ptr()
    features = weakref.ref(first.features)
    del first, again
    gc.collect()
    assert features() is not None
    data.plan.schedule.tasks[0].epochs_done = 2
    data.train_dataloader()
    gc.collect()
    assert features() is None


def test_calibration_images_are_spread_and_not_learned_from(data_root: Path) -> None:
    data = data_for(data_root, ["b"], val_fraction=0.34)
    train = {path for batch in data.train_loader_in_order(0) for path in batch["path"]}
    val = {path for batch in data.val_dataloader()[0] for path in batch["path"]}
    assert len(train) == 4
    assert {Path(path).name for path in val} == {"001.png", "004.png"}
    assert not train & val


def test_validation_takes_training_images_where_nothing_is_held_out(
    data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = data_for(data_root, ["b"], fn="validate", val_fraction=0.0)
    data.plan.schedule.tasks[0].epochs_done = 2
    assert sum(len(batch["path"]) for batch in data.val_dataloader()[0]) == 6
    assert "no calibration images" in caplog.text


def test_a_small_product_holds_out_at_least_one_image(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0, train=3)
    draw_product(tmp_path, "lonely", 0, train=1)
    data = data_for(tmp_path, ["a", "lonely"], val_fraction=0.1)
    assert data.count_images([0])["a"]["val"] == 1
    with pytest.raises(DataError, match="'lonely' has 1 good image.*set data.val_fraction to 0"):
        data.count_images([1])


def test_test_images_outlive_the_training_images(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    data = data_for(tmp_path, ["a"], fn="test")
    schedule = data.plan.schedule
    schedule.tasks[0].epochs_done = 2
    shutil.rmtree(tmp_path / "a" / "train")
    assert data.tasks_on_disk() == [0]
    assert data.tasks_on_disk("train") == []


def test_counts_are_those_of_the_folders(data_root: Path) -> None:
    counts = data_for(data_root, ["01", "b"], val_fraction=0.2).count_images([1])
    assert counts == {"b": {"train": 5, "val": 1, "test_good": 3, "test_defective": 3}}


def test_only_products_still_to_be_learned_have_to_be_there(tmp_path: Path) -> None:
    draw_product(tmp_path, "b", 1)
    data = data_for(tmp_path, ["gone", "b"])
    schedule = data.plan.schedule
    assert list(data.count_images([1])) == ["b"]
    with pytest.raises(DataError, match="no product 'gone'"):
        data.count_images([0, 1])
    for task in schedule.tasks:
        task.epochs_done = 2
    assert data.tasks_on_disk() == [1]
    data.root = str(tmp_path / "nowhere")
    assert data.tasks_on_disk() == []


def test_a_command_without_any_image_says_so(tmp_path: Path) -> None:
    draw_product(tmp_path, "b", 1)
    data = data_for(tmp_path, ["b"], fn="test")
    data.plan.schedule.tasks[0].epochs_done = 2
    data.root = str(tmp_path / "moved")
    with pytest.raises(DataError, match=r"no image to test of the learned tasks \['b'\]"):
        data.test_dataloader()
    with pytest.raises(DataError, match="give images: moleflow predict RUN IMAGES"):
        data.predict_dataloader()


def test_test_batches_come_with_masks_a_loader_a_task(data_root: Path) -> None:
    data = data_for(data_root, ["01", "b"], fn="test")
    for task in data.plan.schedule.tasks:
        task.epochs_done = 2
    loaders = data.test_dataloader()
    assert [batch["task"].unique().tolist() for loader in loaders for batch in loader] == [[0], [1]]
    assert next(iter(loaders[1]))["gt_mask"][-1].shape == (48, 48)


def test_images_to_predict_are_the_test_images_or_those_at_a_path(data_root: Path) -> None:
    def paths(**options: object) -> list[str]:
        data = data_for(data_root, ["b"], fn="predict", **options)
        data.plan.schedule.tasks[0].epochs_done = 2
        done = identity_of(ImageFile.read(data_root / "b" / "test" / "good" / "000.png"))
        data.predicted = {done.path: done}
        return [path for batch in data.predict_dataloader() for path in batch["path"]]

    assert len(paths()) == 5
    assert len(paths(predict_path=str(data_root / "b" / "test" / "good"))) == 2


def test_where_the_images_to_predict_are_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ContinualDataModule("data", ["b"], predict_path="in/*.png")
    assert data.predict_source == str(tmp_path / "in" / "*.png")
    data.predict_path = None
    assert data.predict_source == f"test images, layout mvtec: {tmp_path / 'data'}"


def test_images_used_twice_and_files_not_used_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "moleflow_pl")
    for seed, name in enumerate(("a", "b")):
        draw_product(tmp_path, name, seed)
    good = tmp_path / "a" / "train" / "good"
    shutil.copy(good / "000.png", tmp_path / "a" / "test" / "good" / "000.png")
    shutil.copy(good / "001.png", tmp_path / "b" / "train" / "good" / "x.png")
    (good / "notes.txt").touch()
    data = ContinualDataModule(str(tmp_path), ["a", "b"], num_workers=0)
    for _ in range(2):
        data.check_images([0, 1])
    text = caplog.text
    assert text.count("1 images are in test of a and in train of a, and count in both:") == 1
    assert text.count("1 images are in train of a and in train of b, and count in both:") == 1
    assert f"{good / '001.png'} = {tmp_path / 'b' / 'train' / 'good' / 'x.png'}" in text
    assert text.count("1 files of a are not used: 1 without an image suffix") == 1


def test_a_share_is_for_calibration_by_default(data_root: Path) -> None:
    data = data_for(data_root, ["b"])
    loader = data.calibration_loader(0)
    assert loader is not None
    (batch,) = loader
    assert [Path(path).name for path in batch["path"]] == ["003.png"]
    assert data_for(data_root, ["b"], val_fraction=0.0).calibration_loader(0) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "coco"}, "layout has to be one of 'btad', 'elpv', 'folder', 'mpdd',"),
        ({"val_fraction": 1.0}, "val_fraction must be a number of at least 0, up to 0.99"),
        ({"lots": ""}, "lots must be what ends the name of a lot in a file's name, such as '_'"),
        ({"tasks": ["a", "a"]}, "more than once"),
        ({"tasks": []}, "at least one product"),
    ],
)
def test_bad_arguments_are_refused_in_words(options: dict, message: str) -> None:
    with pytest.raises(MoLEFlowError, match=message):
        ContinualDataModule(**{"tasks": ["a"], **options})


def spoil(root: Path, *parts: str) -> Path:
    path = root.joinpath(*parts)
    path.write_bytes(b"no image")
    return path


def test_bad_images_of_all_parts_are_reported_at_once(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    bad = spoil(tmp_path, "a", "train", "good", "003.png")
    worse = spoil(tmp_path, "a", "ground_truth", "square", "001_mask.png")
    with pytest.raises(DataError, match="2 of 12 images cannot be used") as error:
        data_for(tmp_path, ["a"]).check_images([0])
    assert str(bad) in str(error.value)
    assert str(worse) in str(error.value)
    data_for(tmp_path, ["a"], check_files=False).check_images([0])


def test_skipped_images_are_in_no_part(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    bad = spoil(tmp_path, "a", "train", "good", "003.png")
    (tmp_path / "a" / "ground_truth" / "square" / "001_mask.png").unlink()
    data = data_for(tmp_path, ["a"], on_error="skip")
    data.check_images([0])
    counts = data.count_images([0])["a"]
    assert counts == {"train": 4, "val": 1, "test_good": 3, "test_defective": 2}
    assert str(bad) not in [p for batch in data.train_loader_in_order(0) for p in batch["path"]]
    assert sum(len(batch["path"]) for batch in data.test_loader(0)) == 5


def test_product_of_bad_images_alone_is_an_error(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0, train=1)
    spoil(tmp_path, "a", "train", "good", "000.png")
    data = data_for(tmp_path, ["a"], on_error="skip")
    data.check_images([0])
    with pytest.raises(DataError, match="all training images of 'a' are unusable"):
        data.count_images([0])


def test_skipping_needs_the_check() -> None:
    with pytest.raises(DataError, match="needs data.check_files true"):
        ContinualDataModule("x", ["a"], on_error="skip", check_files=False)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_without_memory_for_features_the_images_are_read_each_time(
    error: Exception, data_root: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def full(*args: object) -> None:
        raise error

    monkeypatch.setattr("moleflow_pl.data.feature_store.extract_features", full)
    data = data_for(data_root, ["b"], batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 48, 48)
    assert "not enough memory for features of b" in caplog.text


def test_other_errors_of_the_backbone_are_none_of_memory(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("moleflow_pl.data.feature_store.extract_features", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        data_for(data_root, ["b"]).train_dataloader()


def test_data_module_without_a_model_says_what_to_call(data_root: Path) -> None:
    data = ContinualDataModule(str(data_root), ["b"])
    with pytest.raises(DataError, match=r"call data.follow\(model.data_plan"):
        data.train_dataloader()
