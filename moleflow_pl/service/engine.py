"""Inspects requests that arrive together as one batch.

Each lane is a thread that takes waiting images, decodes them, inspects them as one batch and
finishes the answers, so that no image changes threads. Two lanes work side by side, each with half
of the cores, because one thread of torch makes better use of a core than two that wait for each
other. A batch uses all cores if no other image waits. Scores in batches of different sizes agree
up to the last bits of floating point, as everywhere in this package.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from moleflow_pl.errors import MoLEFlowError
from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.inference.predictor import Predictor, PreparedImage

LANES = 2
LONGEST_GATHER = 0.5  # seconds of decoding after which a batch is full enough


class QueueFullError(MoLEFlowError):
    """Too many images are waiting."""


class StoppingError(MoLEFlowError):
    """The service is stopping and accepts no more requests."""


class DeadlineError(MoLEFlowError):
    """The answer would come too late."""


class Order(Protocol):
    """An image to inspect; a lane calls both methods, in this order."""

    def prepare(self) -> PreparedImage:
        """Decode it."""

    def finish(self, prediction: Prediction) -> Any:
        """Make the answer from the prediction."""


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model and its digest.

    Attributes:
        predictor: For images of any product.
        digest: SHA-256 of its file.
    """

    predictor: Predictor
    digest: str = ""
    _given: dict[str, Predictor] = field(default_factory=dict)

    def predictor_for(self, product: str | None) -> Predictor:
        """The predictor for images that all show a product.

        Raises:
            ConfigError: the model does not know the product.
        """
        if product is None:
            return self.predictor
        if product not in self._given:
            self._given[product] = Predictor(self.predictor.inspector, product)
        return self._given[product]


@dataclass(frozen=True)
class Job:
    """A waiting image, the model that will inspect it, and the future of its answer."""

    order: Order
    predictor: Predictor
    deadline: float
    answer: Future[Any] = field(default_factory=Future)

    def prepared(self) -> PreparedImage | None:
        """The decoded image; None if it is cancelled, late or cannot be decoded."""
        if not self.answer.set_running_or_notify_cancel():
            return None
        if self.deadline < time.monotonic():
            self.answer.set_exception(DeadlineError("the image waited too long"))
            return None
        try:
            return self.order.prepare()
        except BaseException as error:  # an image must not end the lane
            self.answer.set_exception(error)
            return None


Ready = list[tuple[Job, PreparedImage]]


class Engine:
    """A queue of images before one model.

    Args:
        model: The model; `swap` replaces it.
        batch_size: Largest batch.
        wait: Seconds that a single image waits for others to join its batch.
        queue: Largest number of waiting images.
        lanes: Batches that are inspected at the same time; by default two, or one on a single core.
    """

    def __init__(
        self,
        model: LoadedModel,
        batch_size: int = 16,
        wait: float = 0.0,
        queue: int = 64,
        lanes: int | None = None,
    ) -> None:
        self.model = model
        self.batch_size, self.wait, self.queue = batch_size, wait, queue
        self._cores = torch.get_num_threads()
        self.lanes = min(LANES, self._cores) if lanes is None else lanes
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._busy: set[int] = set()  # lanes
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"lane {lane}", daemon=True)
            for lane in range(self.lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._jobs)

    @property
    def idle(self) -> bool:
        """Whether no image waits and no lane works."""
        with self._changed:
            return not self._jobs and not self._busy

    @property
    def alive(self) -> bool:
        """Whether images are inspected."""
        return all(thread.is_alive() for thread in self._threads) and not self._stopping

    def swap(self, model: LoadedModel) -> None:
        """Replace the model for new images.

        The earlier model inspects the images that are waiting for it: no request fails.
        """
        self.model = model

    def submit(
        self, orders: Sequence[Order], predictor: Predictor, deadline: float
    ) -> list[Future[Any]]:
        """Queue images for one predictor: all of them or none.

        Args:
            orders: The images.
            predictor: From `model.predictor_for`.
            deadline: Of `time.monotonic`; an image that is still waiting then is not inspected.

        Returns:
            What `Order.finish` will return for each.

        Raises:
            QueueFullError: there is no room.
            StoppingError: `stop` was called.
        """
        jobs = [Job(order, predictor, deadline) for order in orders]
        with self._changed:
            if self._stopping:
                raise StoppingError("the service is stopping")
            if len(self._jobs) + len(jobs) > self.queue:
                raise QueueFullError(
                    f"{len(self._jobs)} images are waiting, and --queue allows {self.queue}: try "
                    "again later"
                )
            self._jobs.extend(jobs)
            self._changed.notify_all()
        return [job.answer for job in jobs]

    def stop(self) -> None:
        """Inspect the waiting images, and end the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, lane: int) -> None:
        while self._begin(lane):
            batch = self._gather()
            torch.set_num_threads(self._share(lane))  # of this thread, and of later ones
            for jobs in by_predictor(batch):
                answer(jobs)
            with self._changed:
                self._busy.discard(lane)
                self._changed.notify_all()

    def _begin(self, lane: int) -> bool:
        """Wait for images; False after `stop`. A lane works only while all lanes before it do."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    (self._jobs and len(self._busy) >= lane) or (self._stopping and not self._jobs)
                )
            )
            if not self._jobs:
                return False
            self._busy.add(lane)
            return True

    def _gather(self) -> Ready:
        """Take and decode waiting images, up to a batch; other lanes may take some of them."""
        batch: Ready = []
        began = time.monotonic()
        while len(batch) < self.batch_size and time.monotonic() - began < LONGEST_GATHER:
            job = self._next(self.wait - (time.monotonic() - began) if len(batch) == 1 else 0.0)
            if job is None:
                break
            image = job.prepared()
            if image is not None:
                batch.append((job, image))
        return batch

    def _next(self, wait: float) -> Job | None:
        """The next job; None if none comes within some seconds."""
        with self._changed:
            if wait > 0:
                self._changed.wait_for(lambda: self._jobs or self._stopping, wait)
            return self._jobs.popleft() if self._jobs else None

    def _share(self, lane: int) -> int:
        """The cores for a batch: all of them if there is no other, on the first lane."""
        # with a pool of OpenMP's threads on both lanes, each would sleep at every barrier
        alone = lane == 0 and len(self._busy) <= 1 and not self._jobs
        return self._cores if alone else max(1, self._cores // self.lanes)


def by_predictor(batch: Ready) -> list[Ready]:
    """The images of each predictor."""
    parts: dict[int, Ready] = {}
    for job, image in batch:
        parts.setdefault(id(job.predictor), []).append((job, image))
    return [*parts.values()]


def answer(batch: Ready) -> None:
    """Inspect images of one predictor, and finish each."""
    try:
        predictions = batch[0][0].predictor.inspect([image for _, image in batch])
    except BaseException as error:  # a failed batch must not end the lane
        for job, _ in batch:
            job.answer.set_exception(error)
        return
    # finish all before the first is answered: answers of one moment are one transaction
    ended: list[tuple[Any, BaseException | None]] = []
    for (job, _), prediction in zip(batch, predictions, strict=True):
        try:
            ended.append((job.order.finish(prediction), None))
        except BaseException as error:
            ended.append((None, error))
    for (job, _), (result, failure) in zip(batch, ended, strict=True):
        if failure is None:
            job.answer.set_result(result)
        else:
            job.answer.set_exception(failure)
