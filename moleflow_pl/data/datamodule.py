"""`ContinualDataModule`: the batches of a run, task by task."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from moleflow_pl._internal.distributed import is_first, rank_and_world
from moleflow_pl._internal.printable import printable
from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.data.batches import Identity, TasksOnHost
from moleflow_pl.data.datasets import (
    FeatureDataset,
    ImageDataset,
    SeededOrder,
    SharedBatches,
)
from moleflow_pl.data.feature_store import FeatureStore
from moleflow_pl.data.integrity import ImageCheck, OnError
from moleflow_pl.data.layouts.base import ImageRecord, describe_root
from moleflow_pl.data.layouts.registry import LAYOUTS, task_groups
from moleflow_pl.data.no_images import no_images
from moleflow_pl.data.overlap import describe_overlaps, uses_of
from moleflow_pl.data.patch_sampler import draw_of
from moleflow_pl.data.plan import DataPlan
from moleflow_pl.data.predict_dataset import FoundFiles, UnsortedImages, find_files
from moleflow_pl.data.roi import check_roi, read_roi
from moleflow_pl.data.splits import Part, ProductSplits, check_calibration_share
from moleflow_pl.data.task_features import TaskDataset, TaskFeatures
from moleflow_pl.data.unused import describe_unused
from moleflow_pl.data.variants import (
    Variant,
    alternating,
    check_shapes,
    check_variants,
    multiplied,
    variants_of,
)
from moleflow_pl.errors import DataError
from moleflow_pl.features.extractor import image_shape

logger = logging.getLogger(__name__)

LARGEST_BATCH = 65536
MOST_WORKERS = 1024
MOST_MEMORY = 1e6  # GB


class ContinualDataModule(TasksOnHost, LightningDataModule):
    """Images of products that are learned one task after another.

    While a task is learned, only its own images are read. Their features are computed once and
    kept until the next task begins: in memory, or in a file of the run folder if they are large.
    With several devices, each takes its share of every batch, and holds all features or reads the
    same file.

    Args:
        root: Folder of the data set, or a folder for each product by its name; none for a layout
            that reads a package.
        tasks: Products in the order of learning; an inner list is a group, learned at once.
        layout: Arrangement of the data set: `mvtec`, `mvtec2`, `visa`, `btad`, `mpdd`, `elpv`,
            `folder` (good images alone, one folder for each product), or a name registered in
            `LAYOUTS`.
        image_size: Side of the images, or height and width; by default what the model takes.
        batch_size: Images in a batch, of each device.
        num_workers: Processes that read images; 0 reads in the main process.
        val_fraction: Share of each product's good images for calibration; 0 for no decisions.
        lots: What ends the name of a lot (roll, batch) in the names of training images: `_` in
            roll7_01.png, `/` in roll7/01.png. Calibration images are then whole lots.
        cache_features: Keep a task's features instead of running the backbone in every epoch.
        check_files: Read every image and mask once before the first epoch, and name unusable ones.
        on_error: What to do with unusable images: `stop` lists them and ends, `skip` goes on.
        feature_memory_gb: Largest features held in memory; larger ones are mapped from a file.
        feature_store: Folder that keeps features for other runs; by default they are discarded.
        roi: Mask of the region of interest, 0 outside: a file for all products, or a file by
            product; by default `roi.png` in a product's folder.
        variants: Other looks of good images, of all products or of each by its name: `hflip`,
            `vflip`, `rot90`, `rot180`, `rot270`, `tilt_left`, `tilt_right`, `darker`, `brighter`.
        predict_path: Images for `predict`: a file, folder or pattern; by default the test images.

    Raises:
        ConfigError: a number is out of range, or a name is unknown.
        DataError: the names of products or the folders are invalid.
    """

    def __init__(
        self,
        root: str | dict[str, str] | None = None,
        tasks: Sequence[str | int | list[str | int]] = (),
        layout: str = "mvtec",
        image_size: int | list[int] | None = None,
        batch_size: int = 16,
        num_workers: int = 2,
        val_fraction: float = 0.1,
        lots: str | None = None,
        cache_features: bool = True,
        check_files: bool = True,
        on_error: OnError = "stop",
        feature_memory_gb: float = 1.0,
        feature_store: str | None = None,
        roi: str | dict[str, str] | None = None,
        variants: list[Variant] | dict[str, list[Variant]] | None = None,
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        self.groups = task_groups(tasks)
        LAYOUTS[layout]  # fails here for an unknown name, not in the middle of a run
        check_roi(roi, self.groups)
        check_variants(variants, self.groups)
        check_calibration_share(val_fraction, lots)
        require_int("batch_size", batch_size, 1, LARGEST_BATCH)
        require_int("num_workers", num_workers, 0, MOST_WORKERS)
        require_number("feature_memory_gb", feature_memory_gb, 0, MOST_MEMORY)
        if on_error == "skip" and not check_files:
            raise DataError(
                "data.on_error skip needs data.check_files true, which finds the images to skip"
            )
        self.root = root
        self.layout_name = layout
        self.image_size = None if image_size is None else image_shape(image_size)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.lots = lots
        self.cache_features = cache_features
        self.check_files = check_files
        self.feature_memory_gb = feature_memory_gb
        self.feature_store = feature_store
        self.roi = roi
        self.variants = variants
        self.predict_path = predict_path
        self.predicted: Mapping[str, Identity] = {}  # images that an earlier `predict` finished
        self.preview_side: int | None = None  # size of the copies that `predict` draws on
        self._check = ImageCheck(on_error)
        self._reported_unused: set[str] = set()
        self._regions: dict[int, Tensor] = {}
        self._plan: DataPlan | None = None
        self._features: TaskFeatures | None = None

    def follow(self, plan: DataPlan, features_folder: Path) -> None:
        """Provide batches for a model; `MoLEFlow.setup` calls this.

        Args:
            plan: What the batches depend on in the model.
            features_folder: Folder for features that are too large for the memory.

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
        shared = self.feature_store
        folder = features_folder if shared is None else Path(shared).expanduser()
        store = FeatureStore(folder, shared is not None, int(self.feature_memory_gb * 1e9))
        self._plan, self._features = plan, TaskFeatures(store, self.cache_features)

    @property
    def plan(self) -> DataPlan:
        """What the batches depend on in the model.

        Raises:
            DataError: `follow` was not called yet.
        """
        if self._plan is None:
            raise DataError(
                "this data module does not know its model yet: pass both to a Trainer, or call "
                "data.follow(model.data_plan, features_folder)"
            )
        return self._plan

    def take_feature_seconds(self) -> float:
        """Seconds spent on computing features since the last call."""
        return 0.0 if self._features is None else self._features.take_seconds()

    def teardown(self, stage: str) -> None:
        """Discard stored features, and masks that may change before the next fit."""
        self._regions.clear()
        if self._features is not None:
            self._features.clear()

    @property
    def _splits(self) -> ProductSplits:
        return ProductSplits(self.layout_name, self.root, self.val_fraction, self._check, self.lots)

    def count_images(self, tasks: Sequence[int]) -> dict[str, dict[str, int]]:
        """Count the images of tasks that are to be learned.

        Returns:
            Product to counts of `train`, `val`, `test_good` and `test_defective` images.

        Raises:
            DataError: a product is missing, or has no image to learn from.
        """
        products = [name for task in tasks for name in self.groups[task]]
        return {product: self._splits.count(product) for product in products}

    def check_images(self, tasks: Sequence[int]) -> None:
        """Check the files of a fit that will learn `tasks` and test all products on disk.

        Raises:
            DataError: files are unusable and `on_error` is `stop`, or a product is missing.
        """
        if not (tasks or self.check_files):
            return
        layout = self._splits.layout
        to_learn = [name for task in tasks for name in self.groups[task]]
        on_disk = set(layout.products())
        to_test = sorted({name for group in self.groups for name in group} & on_disk)
        self._report_unused(to_learn)
        if not self.check_files:
            return
        train = [record for name in to_learn for record in layout.train(name)]
        test = [record for name in to_test for record in layout.test(name)]
        if self._check.check([*train, *test]):
            for text in describe_overlaps(uses_of(train, test), self._check.digests):
                logger.warning(text)

    def _report_unused(self, products: Iterable[str]) -> None:
        """Log once for each product which of its files are not used."""
        for product in [name for name in products if name not in self._reported_unused]:
            self._reported_unused.add(product)
            if is_first() and (unused := self._splits.unused(product)):
                logger.info(describe_unused(product, unused))

    def split_hash(self, task: int) -> str:
        """Hash of a task's images (name, content and purpose) and of its region of interest."""
        inside, products = self.region(task), self.plan.schedule.tasks[task].products
        facts: list[Any] = [] if inside.all() else [inside]
        facts += [[p, *of] for p in products if (of := variants_of(p, self.variants))]
        return self._splits.digest(products, facts)

    def region(self, task: int) -> Tensor:
        """Whether each patch (h, w) of a task's images counts, bool.

        Raises:
            DataError: the mask cannot be used.
        """
        if task not in self._regions:
            products, grid = self.plan.schedule.tasks[task].products, self.plan.extractor.shape[:2]
            inside = read_roi(self._splits, products, grid, self.roi)
            check_shapes(products, self.variants, self.plan.extractor.image_size, inside)
            self._regions[task] = inside
        return self._regions[task]

    def train_dataloader(self) -> DataLoader | list[DataLoader]:
        """Good images of the current task, in a new order for each epoch."""
        index = self.plan.schedule.current
        if index is None:
            return []
        task = self.plan.schedule.tasks[index]
        # a new loader each epoch: the order depends on the run's seed, the product and the epoch
        seed, epoch = self.plan.seed, (task.name, task.epochs_done)
        # a copy: settings of this epoch must not reach other users of the data set
        dataset: Any = copy.copy(self._training_set(index, "train"))
        dataset.draw = draw_of(self.region(index), self.plan.patch_fraction, seed, epoch)
        order: Any = SeededOrder(len(dataset), seed, *epoch)
        batches = SharedBatches(order, self.batch_size, *rank_and_world())
        return self._loader(dataset, batch_sampler=batches)

    def val_dataloader(self) -> list[DataLoader]:
        """Calibration images: of the current task while fitting, of all tasks in `validate`.

        Without calibration images a fit validates nothing, and `validate` uses training images.
        """
        if self.trainer is not None and self.trainer.state.fn == "fit":
            index = self.plan.schedule.current
            return [] if index is None else [self._loader(self._training_set(index, "val"))]
        part: Part = "val" if self.val_fraction else "train"
        if part == "train":
            logger.info("no calibration images (data.val_fraction 0): training images are used")
        return [self._loader(self._images(task, part)) for task in self._require_tasks(part)]

    def test_dataloader(self) -> list[DataLoader]:
        """Test images of every task the model has learned, one loader each."""
        tasks = self._require_tasks("test")
        self._report_unused(
            name for task in tasks for name in self.plan.schedule.tasks[task].products
        )
        if self._check.on_error == "skip":
            self._check.check([r for task in tasks for r in self._records(task, "test")])
            tasks = self._require_tasks("test")
        return [self.test_loader(task) for task in tasks]

    def test_loader(self, task: int) -> DataLoader:
        """Test images of one task, with masks."""
        return self._share(self._images(task, "test", masks=True))

    def train_loader_in_order(self, task: int) -> DataLoader:
        """Training images of one task in the order of their names, then their variants."""
        return self._share(self._training_set(task, "train"))

    def originals_in_order(self, task: int) -> DataLoader:
        """Training images of one task in the order of their names, without variants."""
        dataset = self._training_set(task, "train")
        return self._share(dataset, sum(r.variant is None for r in dataset.records))

    def calibration_loader(self, task: int) -> DataLoader | None:
        """Calibration images of one task, or their stored features; None without any."""
        return self._loader(self._training_set(task, "val")) if self.val_fraction else None

    def calibration_images(self, task: int) -> DataLoader | None:
        """Calibration images of one task as pixels, never as features; None without any."""
        return self._loader(self._images(task, "val")) if self.val_fraction else None

    def predict_dataloader(self) -> DataLoader:
        """Images of `predict_path`, or the test images, without those in `predicted`."""
        if self.predict_path is None:
            tasks = self._require_tasks("test", to_predict=True)
            files = FoundFiles.of([r.path for task in tasks for r in self._records(task, "test")])
        else:
            files = find_files(self.predict_path)
        size = self.plan.extractor.image_size
        return self._share(UnsortedImages(files, size, self.predicted, self.preview_side))

    @property
    def predict_source(self) -> str:
        """Where the images to predict are, independent of the working directory."""
        if self.predict_path is not None:
            return os.path.abspath(os.path.expanduser(self.predict_path))
        return f"test images, layout {self.layout_name}: {describe_root(self.root)}"

    def _require_tasks(self, part: Part, to_predict: bool = False) -> list[int]:
        """The learned tasks on disk.

        Raises:
            DataError: no learned task is on disk.
        """
        self.plan.schedule.require_learned()
        tasks = self.tasks_on_disk(part)
        if not tasks:
            purpose, names = "predict" if to_predict else part, self.plan.schedule.names
            raise no_images(purpose, names, self.layout_name, self.root)
        return tasks

    def tasks_on_disk(self, part: Part = "test") -> list[int]:
        """The learned tasks whose products are all on disk with images of a part.

        A product's images may be gone long after it was learned; that is not an error.
        """
        schedule = self.plan.schedule
        tasks = []
        for index in schedule.learned:
            try:
                records = self._records(index, part)
            except DataError:
                continue
            if {record.product for record in records} == set(schedule.tasks[index].products):
                tasks.append(index)
        return tasks

    def _records(self, task: int, part: Part) -> list[ImageRecord]:
        products, splits = self.plan.schedule.tasks[task].products, self._splits
        found = [record for product in products for record in splits.records(product, part)]
        expand = {"train": multiplied, "val": alternating}.get(part)
        return expand(found, self.variants) if expand else found

    def _images(self, task: int, part: Part, masks: bool = False) -> ImageDataset:
        return ImageDataset(self._records(task, part), task, self.plan.extractor.image_size, masks)

    def _training_set(self, task: int, part: Part) -> TaskDataset:
        """Images or stored features of a part of a task."""
        name = printable(self.plan.schedule.tasks[task].name)
        assert self._features is not None  # there with the plan
        return self._features.dataset(
            part, name, lambda: self._images(task, part), self.plan.extractor, self._loader, task
        )

    def _share(self, dataset: Any, count: int | None = None) -> DataLoader:
        """A loader of this rank's share of the first images; each image goes to one rank."""
        rank, world = rank_and_world()
        share: Any = range(rank, len(dataset) if count is None else count, world)
        return self._loader(dataset, batch_size=self.batch_size, sampler=share)

    def _loader(self, dataset: Any, **options: Any) -> DataLoader:
        options = options or {"batch_size": self.batch_size}
        # stored features need no worker processes
        workers = 0 if isinstance(dataset, FeatureDataset) else self.num_workers
        return DataLoader(
            dataset,
            num_workers=workers,
            pin_memory=self.plan.extractor.mean.device.type == "cuda",
            collate_fn=dataset.collate,
            **options,
        )
