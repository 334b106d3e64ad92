"""The path of an image: checked, decoded, stored, inspected in a batch, recorded, then answered."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from moleflow_pl.errors import DataError, OutputError
from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.inference.predictor import PreparedImage
from moleflow_pl.service.database import Base, Database, Inspection, Outbox
from moleflow_pl.service.engine import DeadlineError, Engine, QueueFullError, StoppingError
from moleflow_pl.service.images import ImageStore, client_name
from moleflow_pl.service.recorder import Recorder
from moleflow_pl.service.records import inspection_of


@dataclass(frozen=True)
class Upload:
    """An incoming image file.

    Attributes:
        content: Its bytes.
        name: Its name at the sender.
        rows: Rows to write in the same transaction, given the inspection.
    """

    content: bytes
    name: str = ""
    rows: Callable[[Inspection], Iterable[Base]] = lambda inspection: ()


@dataclass(frozen=True)
class Received:
    """An upload after decoding: the model's input, and where the file is stored."""

    image: PreparedImage
    place: str | None


class Line:
    """Everything between an image's bytes and its row in the database.

    Args:
        engine: The model and its queue.
        database: The record.
        store: The images.
        sinks: Names of the sinks that receive each inspection.
        deadline: Seconds within which an image is answered.
    """

    def __init__(
        self,
        engine: Engine,
        database: Database,
        store: ImageStore,
        sinks: Sequence[str] = (),
        deadline: float = 30.0,
    ) -> None:
        self.engine, self.database, self.store = engine, database, store
        self.sinks, self.deadline = tuple(sinks), deadline
        self.recorder = Recorder(database)
        self.recorded: list[Callable[[Inspection], None]] = []  # called for each, after its commit
        self.stopping = False
        self._decoders = ThreadPoolExecutor(os.cpu_count(), "decode")
        self._taken = 0

    @property
    def taken(self) -> int:
        """Number of accepted images that are not answered yet."""
        return self._taken

    def check_room(self, count: int = 1) -> None:
        """Check before images are read that they can be accepted.

        Raises:
            QueueFullError: too many images are waiting.
            StoppingError: the service is stopping.
        """
        if self.stopping:
            raise StoppingError("the service is stopping")
        if self._taken + count > self.engine.queue:
            raise QueueFullError(
                f"{self._taken} images are waiting, and --queue allows {self.engine.queue}: try "
                "again "
                "later"
            )

    async def inspect(
        self, uploads: Sequence[Upload], source: str, product: str | None = None
    ) -> list[Inspection]:
        """Inspect images; all are recorded, or none.

        Args:
            uploads: The images.
            source: Where they come from.
            product: The product that all of them show; by default the router decides.

        Raises:
            DataError: a file is not an image; the message names it.
            ConfigError: the model does not know the product.
            QueueFullError: too many images are waiting.
            DeadlineError: it takes too long.
            OutputError: they cannot be recorded.
        """
        self.check_room(len(uploads))
        self._taken += len(uploads)
        try:
            async with asyncio.timeout(self.deadline):
                return await self._inspect(uploads, source, product)
        except TimeoutError as error:
            raise DeadlineError(f"no answer within {self.deadline:g} s (--deadline)") from error
        finally:
            self._taken -= len(uploads)

    async def _inspect(
        self, uploads: Sequence[Upload], source: str, product: str | None
    ) -> list[Inspection]:
        began, loop, model = time.perf_counter(), asyncio.get_running_loop(), self.engine.model
        predictor, due = model.of(product), time.monotonic() + self.deadline
        received: list[Received] = []
        try:
            for upload in uploads:
                prepare = predictor.prepare
                received.append(
                    await loop.run_in_executor(self._decoders, self._receive, upload, prepare)
                )
            futures = self.engine.submit([one.image for one in received], predictor, due)
            predictions = await asyncio.gather(*map(asyncio.wrap_future, futures))
            columns = {"time": time.time(), "source": source, "model": model.digest}
            rows = await loop.run_in_executor(
                self._decoders, self._rows, uploads, received, predictions,
                {**columns, "seconds": time.perf_counter() - began},
            )  # fmt: skip
            every = [row for group in rows for row in group]
        except BaseException:
            for one in received:
                self.store.discard(one.place)
            raise
        # from here on the rows may be written, even if the request is cancelled
        try:
            await asyncio.shield(asyncio.wrap_future(self.recorder.add(*every)))
        except OutputError:
            for one in received:
                self.store.discard(one.place)
            raise
        inspections = [row for row in every if isinstance(row, Inspection)]
        for inspection in inspections:
            for tell in self.recorded:
                tell(inspection)
        return inspections

    def _receive(self, upload: Upload, prepare: Callable[[Image.Image], PreparedImage]) -> Received:
        try:
            image, form = self.store.decode(upload.content)
        except DataError as error:
            name = f"{client_name(upload.name)}: " if upload.name else ""
            raise DataError(f"{name}{error}") from error
        return Received(prepare(image), self.store.save(upload.content, form))

    def _rows(
        self,
        uploads: Sequence[Upload],
        received: Sequence[Received],
        predictions: Sequence[Prediction],
        columns: dict[str, Any],
    ) -> list[list[Base]]:
        groups: list[list[Base]] = []
        for upload, one, prediction in zip(uploads, received, predictions, strict=True):
            inspection = inspection_of(
                prediction,
                image_name=client_name(upload.name),
                image_path=one.place,
                **columns,
            )
            told = [Outbox(sink=sink, inspection=inspection) for sink in self.sinks]
            groups.append([inspection, *told, *upload.rows(inspection)])
        return groups

    def stop(self) -> None:
        """Finish the accepted images, and end."""
        self.stopping = True
        self.engine.stop()
        self.recorder.stop()
        self._decoders.shutdown()
