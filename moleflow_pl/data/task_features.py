"""The training set of the current task: its images, or their features, computed once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from torch.utils.data import DataLoader

from moleflow_pl.data.datasets import FeatureDataset, ImageDataset
from moleflow_pl.data.feature_store import FeatureStore
from moleflow_pl.errors import is_out_of_memory
from moleflow_pl.features.extractor import PatchExtractor

logger = logging.getLogger(__name__)

TaskDataset = ImageDataset | FeatureDataset


class TaskFeatures:
    """Data sets of one task at a time; those of the last one go when the next is asked for.

    Args:
        store: Where features are.
        enabled: Whether features are stored; without, the images themselves are the data set.
    """

    def __init__(self, store: FeatureStore, enabled: bool) -> None:
        self.store = store
        self.enabled = enabled
        self._task: int | None = None
        self._datasets: dict[str, TaskDataset] = {}
        self._seconds = 0.0

    def dataset(
        self,
        part: str,
        name: str,
        images: Callable[[], ImageDataset],
        extractor: PatchExtractor,
        loader: Callable[[ImageDataset], DataLoader],
        task: int,
    ) -> TaskDataset:
        """The data set of a part of a task's images.

        Args:
            part: Which part.
            name: Name of the task, for the progress bar.
            images: Makes the data set of images.
            extractor: Computes their features.
            loader: Reads them in order.
            task: Number of the task.
        """
        if self._task != task:
            self.clear()
            self._task = task
        if part not in self._datasets:
            dataset = images()
            title = f"features of {name} ({part})"
            self._datasets[part] = (
                self._stored(dataset, title, extractor, loader) if self.enabled else dataset
            )
        return self._datasets[part]

    def _stored(
        self,
        images: ImageDataset,
        title: str,
        extractor: PatchExtractor,
        loader: Callable[[ImageDataset], DataLoader],
    ) -> TaskDataset:
        """Features of images; the images themselves where there is not enough memory."""
        started = time.monotonic()
        try:
            features = self.store.get(extractor, loader(images), title)
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning(f"no memory for {title}: the backbone runs in every epoch, slower")
            return images
        self._seconds += time.monotonic() - started
        return FeatureDataset(features, images.records, images.task)

    def take_seconds(self) -> float:
        """Seconds spent on computing features since this was last called."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def clear(self) -> None:
        """Drop the data sets, and the files of features that are not to be kept."""
        self._datasets.clear()
        if self._task is not None:
            self.store.clear()
        self._task = None
