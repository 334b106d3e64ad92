"""Inspects requests that arrive together as one batch.

One thread owns the model. It takes the waiting images, up to a batch; those that arrive meanwhile
form the next one. Scores in batches of different sizes agree up to the last bits of floating point,
as everywhere in this package; equal batches agree bit for bit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from moleflow_pl.errors import MoLEFlowError
from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.inference.predictor import Predictor, PreparedImage


class QueueFullError(MoLEFlowError):
    """Too many images are waiting."""


class StoppingError(MoLEFlowError):
    """The service is stopping and accepts no more requests."""


class DeadlineError(MoLEFlowError):
    """The answer would come too late."""


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

    def of(self, product: str | None) -> Predictor:
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
    """A waiting image, the model that it was prepared for, and the future of its answer."""

    image: PreparedImage
    predictor: Predictor
    deadline: float
    answer: Future[Prediction] = field(default_factory=Future)


class Engine:
    """A queue of images before one model.

    Args:
        model: The model; `swap` replaces it.
        batch_size: Largest batch.
        wait: Seconds that a single image waits for others to join its batch.
        queue: Largest number of waiting images.
    """

    def __init__(
        self, model: LoadedModel, batch_size: int = 16, wait: float = 0.002, queue: int = 64
    ) -> None:
        self.model = model
        self.batch_size, self.wait, self.queue = batch_size, wait, queue
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="inspect", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether the thread of the model works."""
        return self._thread.is_alive() and not self._stopping

    def swap(self, model: LoadedModel) -> None:
        """Replace the model for new images.

        The earlier model inspects waiting images, which were prepared for it: no request fails.
        """
        self.model = model

    def submit(
        self, images: Sequence[PreparedImage], predictor: Predictor, deadline: float
    ) -> list[Future[Prediction]]:
        """Queue images that one predictor has prepared: all of them or none.

        Args:
            images: The images.
            predictor: From `model.of`.
            deadline: Of `time.monotonic`; an image that is still waiting then is not inspected.

        Raises:
            QueueFullError: there is no room.
            StoppingError: `stop` was called.
        """
        jobs = [Job(image, predictor, deadline) for image in images]
        with self._changed:
            if self._stopping:
                raise StoppingError("the service is stopping")
            if len(self._jobs) + len(jobs) > self.queue:
                raise QueueFullError(
                    f"{len(self._jobs)} images are waiting, and --queue allows {self.queue}: try "
                    "again later"
                )
            self._jobs.extend(jobs)
            self._changed.notify()
        return [job.answer for job in jobs]

    def stop(self) -> None:
        """Inspect the waiting images, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            by_predictor: dict[int, list[Job]] = {}
            for job in batch:
                by_predictor.setdefault(id(job.predictor), []).append(job)
            for jobs in by_predictor.values():
                answer(jobs)

    def _next_batch(self) -> list[Job]:
        """The next jobs; empty after `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            if len(self._jobs) == 1:  # alone so far
                self._changed.wait_for(
                    lambda: len(self._jobs) >= self.batch_size or self._stopping, self.wait
                )
            count = min(self.batch_size, len(self._jobs))
            return [self._jobs.popleft() for _ in range(count)]


def answer(jobs: Sequence[Job]) -> None:
    """Inspect images of one predictor; skip cancelled and late ones."""
    now, due = time.monotonic(), []
    for job in jobs:
        if not job.answer.set_running_or_notify_cancel():
            continue
        if job.deadline < now:
            job.answer.set_exception(DeadlineError("the image waited too long"))
        else:
            due.append(job)
    if not due:
        return
    try:
        found = due[0].predictor.inspect([job.image for job in due])
    except BaseException as error:  # a failed batch must not end the thread
        for job in due:
            job.answer.set_exception(error)
        return
    for job, prediction in zip(due, found, strict=True):
        job.answer.set_result(prediction)
