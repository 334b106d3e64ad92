"""The batches of a run: which images, of which task, in which order."""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from moleflow_pl._internal.distributed import rank_and_world
from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.data.datasets import (
    FeatureDataset,
    ImageDataset,
    SeededOrder,
    SeededTransform,
    SharedBatches,
)
from moleflow_pl.data.feature_store import FeatureStore
from moleflow_pl.data.integrity import ImageCheck, OnError
from moleflow_pl.data.layouts.registry import LAYOUTS, ImageRecord, Layout, LayoutName, task_groups
from moleflow_pl.data.patch_sampler import PatchDraw
from moleflow_pl.data.plan import DataPlan
from moleflow_pl.data.predict_dataset import UnsortedImages, find_files
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.features.extractor import image_shape
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)

LARGEST_VAL_FRACTION = 0.99
LARGEST_BATCH = 65536
MOST_WORKERS = 1024
MOST_MEMORY = 1e6  # GB


class ContinualDataModule(LightningDataModule):
    """Products that are learned one task after another, from good images alone.

    While a task is learned, only its own images are read. Their features are computed once and
    kept until the next task begins: in memory, or in a file of the run folder where they are many.
    On several devices each takes its share of every batch, and keeps all features or reads the one
    file.

    Args:
        root: Folder of the data set; none for a layout that reads a package.
        tasks: Products in the order of learning; a list within the list is a group that is learned
            at once.
        layout: How the data set is laid out: `mvtec`, `mvtec2`, `visa`, `btad`, `mpdd`, `elpv`, or
            `folder` for good images alone, a folder a product.
        image_size: Side of the images, or height and width; by default what the model takes.
        batch_size: Images in a batch, of each device.
        num_workers: Processes that read images; 0 reads in the main process.
        val_fraction: Share of each product's good training images that is held out: thresholds are
            calibrated on them, and `validate` looks at them. Without, there is no decision.
        cache_features: Keep the current task's features instead of running the backbone in every
            epoch.
        check_files: Read every image and mask once before the first epoch, and name the bad ones.
        on_error: What happens to images that cannot be used: `stop` lists them and ends, `skip`
            lists them and leaves them out.
        feature_memory_gb: Features up to this size are in memory, more are mapped from a file.
        feature_store: Folder that keeps features for other runs on the same images; by default
            nothing is left of them.
        augmentation: Random change of every training image (3, H, W) uint8, such as a transform of
            torchvision; features are then computed anew in every epoch.
        predict_path: Images for `predict`: a file, a folder (searched through) or a pattern; by
            default the test images.

    Raises:
        ConfigError: a number that cannot be.
        DataError: names or folders that cannot be.
    """

    def __init__(
        self,
        root: str | None = None,
        tasks: Sequence[str | int | list[str | int]] = (),
        layout: LayoutName = "mvtec",
        image_size: int | list[int] | None = None,
        batch_size: int = 16,
        num_workers: int = 2,
        val_fraction: float = 0.1,
        cache_features: bool = True,
        check_files: bool = True,
        on_error: OnError = "stop",
        feature_memory_gb: float = 1.0,
        feature_store: str | None = None,
        augmentation: nn.Module | None = None,
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        self.groups = task_groups(tasks)
        if layout not in LAYOUTS:
            raise DataError(f"layout {layout!r} is not one of {sorted(LAYOUTS)}")
        require_number("val_fraction", val_fraction, 0, LARGEST_VAL_FRACTION)
        require_int("batch_size", batch_size, 1, LARGEST_BATCH)
        require_int("num_workers", num_workers, 0, MOST_WORKERS)
        require_number("feature_memory_gb", feature_memory_gb, 0, MOST_MEMORY)
        if on_error == "skip" and not check_files:
            raise DataError("on_error skip leaves out what check_files finds: switch that on")
        self.root = root
        self.layout_name = layout
        self.image_size = None if image_size is None else image_shape(image_size)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.cache_features = cache_features
        self.check_files = check_files
        self.feature_memory_gb = feature_memory_gb
        self.feature_store = feature_store
        self.augmentation = augmentation
        self.predict_path = predict_path
        self.predicted: Collection[str] = ()  # images that an earlier `predict` has done
        self._check = ImageCheck(on_error)
        self._plan: DataPlan | None = None
        self._features_folder = Path()
        self._feature_seconds = 0.0
        self._datasets: dict[str, Dataset] = {}
        self._cached_task: int | None = None

    def follow(self, plan: DataPlan, features_folder: Path) -> None:
        """Work for a model from now on; `MoLEFlow.setup` calls this.

        Args:
            plan: What there is to know of the model.
            features_folder: Where features go that are too large for the memory.

        Raises:
            DataError: the model takes images of another size.
        """
        size = plan.extractor.image_size
        if self.image_size not in (None, size):
            raise DataError(
                f"data.image_size {self.image_size} is not the model's {size}: set "
                "model.image_size, data.image_size follows it"
            )
        self.image_size = size
        self._plan, self._features_folder = plan, features_folder

    @property
    def plan(self) -> DataPlan:
        """What there is to know of the model.

        Raises:
            DataError: no model was named yet.
        """
        if self._plan is None:
            raise DataError(
                "this data module does not know its model yet: pass both to a Trainer, or call "
                "data.follow(model.data_plan, features_folder)"
            )
        return self._plan

    def take_feature_seconds(self) -> float:
        """Seconds spent on computing features since this was last called."""
        seconds, self._feature_seconds = self._feature_seconds, 0.0
        return seconds

    def teardown(self, stage: str) -> None:
        """Let go of stored features."""
        self._datasets.clear()
        self._cached_task = None
        if stage == "fit" and self._plan is not None:
            self._store.clear()

    @property
    def layout(self) -> Layout:
        """The data set on disk, opened anew: folders may come and go between tasks."""
        return LAYOUTS[self.layout_name](self.root)

    @property
    def _schedule(self) -> TaskSchedule:
        return self.plan.schedule

    def count_images(self, tasks: Sequence[int]) -> dict[str, dict[str, int]]:
        """Find the images of tasks that are to be learned, and count them.

        Returns:
            Product to counts of `train`, `val`, `test_good` and `test_defective` images.

        Raises:
            DataError: a product is not there, or has no image to learn from.
        """
        counts = {}
        for product in [name for task in tasks for name in self.groups[task]]:
            train, val = self._split(product)
            labels = [record.gt_label for record in self._check.usable(self.layout.test(product))]
            counts[product] = {
                "train": len(train),
                "val": len(val),
                "test_good": labels.count(0),
                "test_defective": labels.count(1),
            }
        return counts

    def check_images(self, tasks: Sequence[int]) -> None:
        """Look at the files of a fit that will learn `tasks` and test all there is to test.

        Raises:
            DataError: some cannot be used, and `on_error` is `stop`; or there is no such product.
        """
        if not self.check_files:
            return
        to_learn = [name for task in tasks for name in self.groups[task]]
        records = [record for name in to_learn for record in self.layout.train(name)]
        known = self.layout.products()
        for name in sorted({name for group in self.groups for name in group} & set(known)):
            records += self.layout.test(name)
        self._check.look_at(records)

    def split_hash(self, task: int) -> str:
        """Hash of the names of a task's images and what each is for; where they lie is left out."""
        lines = [
            f"{part}\t{record.product}\t{record.defect}\t{record.path.name}"
            for part in ("train", "val", "test")
            for record in self._records(task, part)
        ]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def train_dataloader(self) -> DataLoader | list[DataLoader]:
        """Good images of the current task, in an order of their own for each epoch."""
        index = self._schedule.current
        if index is None:
            return []
        task = self._schedule.tasks[index]
        # a new loader each epoch: the order depends on the run's seed, the product and the epoch
        seed, epoch = self.plan.seed, (task.name, task.epochs_done)
        # a copy: what is of this epoch alone is not to reach who reads all
        dataset: Any = copy.copy(self._training_set(index, "train"))
        dataset.draw = self._draw(seed, epoch)
        if self.augmentation is not None:
            dataset.augment = SeededTransform(self.augmentation, seed, epoch)
        order: Any = SeededOrder(len(dataset), seed, *epoch)
        batches = SharedBatches(order, self.batch_size, *rank_and_world())
        return self._loader(dataset, batch_sampler=batches)

    def val_dataloader(self) -> list[DataLoader]:
        """Held-out good images: of the current task while fitting, of all when validating.

        Where nothing is held out, fitting validates nothing and `validate` takes the images the
        model learned from.
        """
        assert self.trainer is not None
        if self.trainer.state.fn == "fit":
            index = self._schedule.current
            return [] if index is None else [self._loader(self._training_set(index, "val"))]
        part = "val" if self.val_fraction else "train"
        if part == "train":
            logger.info("no calibration images (data.val_fraction 0): training images are used")
        there = self._there(part)
        return [self._loader(self._images(task, part)) for task in there]

    def test_dataloader(self) -> list[DataLoader]:
        """Test images of every task the model has learned, one loader each."""
        there = self._there("test")
        if self._check.on_error == "skip":
            self._check.look_at([r for task in there for r in self._records(task, "test")])
            there = self._there("test")
        return [self.test_loader(task) for task in there]

    def test_loader(self, task: int) -> DataLoader:
        """Test images of one task, with masks."""
        return self._share(self._images(task, "test", masks=True))

    def train_loader_in_order(self, task: int) -> DataLoader:
        """Training images of one task, each once, in the order of their names."""
        return self._share(self._training_set(task, "train"))

    def calibration_loader(self, task: int) -> DataLoader | None:
        """Calibration images of one task, not among its training images; None without any."""
        return self._loader(self._training_set(task, "val")) if self.val_fraction else None

    def calibration_images(self, task: int) -> DataLoader | None:
        """The same as images, whatever features are stored."""
        return self._loader(self._images(task, "val")) if self.val_fraction else None

    def predict_dataloader(self) -> DataLoader:
        """Images to predict, but those in `predicted`: of `predict_path`, or the test images."""
        others: list[str] = []
        if self.predict_path is None:
            tasks = self._there("test")
            paths = [str(one.path) for task in tasks for one in self._records(task, "test")]
        else:
            paths, others = find_files(self.predict_path)
        return self._share(UnsortedImages(paths, self._size, self.predicted, others))

    def _there(self, part: str) -> list[int]:
        """The tasks on disk, if there is one: a command of its own has nothing to do without."""
        found = self.tasks_on_disk(part)
        if not found:
            names = self._schedule.names
            raise DataError(
                f"no image to {part} of the learned tasks {names} in data.root {self.root} "
                f"(layout {self.layout_name}): give the place where they are as --data.root"
            )
        return found

    def tasks_on_disk(self, part: str = "test") -> list[int]:
        """The learned tasks whose products can still be found and have images of a part.

        A product's images may be gone long after it was learned; that is no error.
        """
        found = []
        for index in self._schedule.learned:
            try:
                records = self._records(index, part)
            except DataError:
                continue
            if {record.product for record in records} == set(self._schedule.tasks[index].products):
                found.append(index)
        return found

    @property
    def _size(self) -> tuple[int, int]:
        assert self.image_size is not None
        return self.image_size

    def _split(self, product: str) -> tuple[list[ImageRecord], list[ImageRecord]]:
        """Training images of a product, and those of them held out: evenly spread, no chance."""
        records = self._check.usable(self.layout.train(product))
        if not records:
            raise DataError(f"no image of {product!r} to learn from can be used")
        if not self.val_fraction:
            return records, []
        held_out = max(int(len(records) * self.val_fraction), 1)
        if held_out == len(records):
            raise DataError(
                f"{product!r} has {len(records)} good image to learn from, and data.val_fraction "
                f"{self.val_fraction} would hold it out: add images, or hold none out"
            )
        chosen = {(2 * i + 1) * len(records) // (2 * held_out) for i in range(held_out)}
        train = [record for i, record in enumerate(records) if i not in chosen]
        return train, [records[i] for i in sorted(chosen)]

    def _records(self, task: int, part: str) -> list[ImageRecord]:
        products = self._schedule.tasks[task].products
        read: dict[str, Callable[[str], list[ImageRecord]]] = {
            "train": lambda product: self._split(product)[0],
            "val": lambda product: self._split(product)[1],
            "test": lambda product: self._check.usable(self.layout.test(product)),
        }
        return [record for product in products for record in read[part](product)]

    def _images(self, task: int, part: str, masks: bool = False) -> ImageDataset:
        return ImageDataset(self._records(task, part), task, self._size, masks)

    def _training_set(self, task: int, part: str) -> Dataset:
        """Images or stored features of a task's part; the last task's are let go first."""
        if self._cached_task != task:
            self._datasets.clear()
            if self._cached_task is not None:
                self._store.clear()
            self._cached_task = task
        if part not in self._datasets:
            images = self._images(task, part)
            kept = self.cache_features and self.augmentation is None
            self._datasets[part] = self._stored(images, part) if kept else images
        return self._datasets[part]

    def _draw(self, seed: int, epoch: tuple[str, int]) -> PatchDraw | None:
        """The patches that an epoch of a task sees; None for all."""
        height, width, _ = self.plan.extractor.shape
        wanted = max(round(self.plan.patch_fraction * height * width), 1)
        if wanted >= height * width:
            return None
        return PatchDraw((height, width), wanted, seed, epoch)

    @property
    def _store(self) -> FeatureStore:
        own = self._features_folder
        folder = own if self.feature_store is None else Path(self.feature_store).expanduser()
        limit = int(self.feature_memory_gb * 1e9)
        return FeatureStore(folder, self.feature_store is not None, limit)

    def _stored(self, images: ImageDataset, part: str) -> Dataset:
        """Features of a task's images; the images themselves where no memory is left for them."""
        name = self._schedule.tasks[images.task].name
        started = time.monotonic()
        try:
            features = self._store.get(
                self.plan.extractor, self._loader(images), f"features of {name} ({part})"
            )
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate" not in str(error):
                raise
            logger.warning(
                f"no memory for the features of {name}: the backbone runs in every epoch, slower"
            )
            return images
        self._feature_seconds += time.monotonic() - started
        return FeatureDataset(features, images.records, images.task)

    def _share(self, dataset: Any) -> DataLoader:
        """A loader of this rank's share of some images, each of which is one rank's."""
        rank, world = rank_and_world()
        own: Any = range(rank, len(dataset), world)
        return self._loader(dataset, batch_size=self.batch_size, sampler=own)

    def _loader(self, dataset: Any, **options: Any) -> DataLoader:
        options = options or {"batch_size": self.batch_size}
        # stored features need no process to read them
        workers = 0 if isinstance(dataset, FeatureDataset) else self.num_workers
        return DataLoader(
            dataset,
            num_workers=workers,
            pin_memory=self.plan.extractor.mean.device.type == "cuda",
            collate_fn=dataset.collate,
            **options,
        )


def data_of(trainer: Trainer) -> ContinualDataModule:
    """The data module of a trainer.

    Raises:
        ConfigError: it has another one, or none.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ContinualDataModule):
        raise ConfigError(
            f"tasks are learned from a ContinualDataModule, got {type(data).__name__}: call "
            "trainer.fit(model, datamodule=ContinualDataModule(...))"
        )
    return data
