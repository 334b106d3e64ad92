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
    """Data sets of one task at a time; asking for another task discards them.

    Args:
        store: The feature store.
        enabled: Whether features are stored; otherwise a data set holds the images themselves.
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
            part: Part of the images, `train` or `val`.
            name: Name of the task, for the progress bar.
            images: Builds the data set of images.
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
        """The data set of features, or that of images if there is not enough memory."""
        started = time.monotonic()
        try:
            features = self.store.get(extractor, loader(images), title)
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning(
                f"not enough memory for {title}: the backbone runs in every epoch, which is slower"
            )
            return images
        self._seconds += time.monotonic() - started
        return FeatureDataset(features, images.records, images.task)

    def take_seconds(self) -> float:
        """Seconds spent on computing features since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def clear(self) -> None:
        """Discard the data sets, and feature files unless the store keeps them."""
        self._datasets.clear()
        if self._task is not None:
            self.store.clear()
        self._task = None
