"""The path of an image: checked, decoded, inspected in a batch, stored, recorded, then answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from moleflow_pl.errors import DataError, OutputError
from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.inference.predictor import Predictor, PreparedImage
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


class Arrived:
    """An upload on its way through a lane.

    Args:
        upload: The uploaded image.
        predictor: The predictor that inspects it.
        store: The store that keeps it.
        columns: Known columns of its row.
        sinks: Names of the sinks that receive the inspection.
    """

    def __init__(
        self,
        upload: Upload,
        predictor: Predictor,
        store: ImageStore,
        columns: dict[str, Any],
        sinks: Sequence[str],
    ) -> None:
        self.upload, self.predictor, self.store = upload, predictor, store
        self.columns, self.sinks = columns, sinks
        self.name, self._began = client_name(upload.name), time.perf_counter()
        self._form = ""  # of the image
        self._place: str | None = None

    def prepare(self) -> PreparedImage:
        """Decode the image.

        Raises:
            DataError: the file is not an image; the message names it.
        """
        try:
            image, self._form = self.store.decode(self.upload.content)
        except DataError as error:
            raise DataError(f"{self.name}: {error}" if self.name else str(error)) from error
        return self.predictor.prepare(image)

    def finish(self, prediction: Prediction) -> list[Base]:
        """Keep the image; the rows that record it, the inspection first.

        Raises:
            OutputError: the image cannot be stored.
        """
        self._place = self.store.save(self.upload.content, self._form)
        inspection = inspection_of(
            prediction,
            image_name=self.name,
            image_path=self._place,
            time=time.time(),
            seconds=time.perf_counter() - self._began,
            **self.columns,
        )
        outbox = [Outbox(sink=sink, inspection=inspection) for sink in self.sinks]
        return [inspection, *outbox, *self.upload.rows(inspection)]

    def discard(self, ended: object = None) -> None:
        """Keep the image no longer."""
        self.store.discard(self._place)


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
                "again later"
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
            DeadlineError: the inspection takes too long.
            OutputError: the inspections cannot be recorded.
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
        model, due = self.engine.model, time.monotonic() + self.deadline
        predictor, columns = model.predictor_for(product), {"source": source, "model": model.digest}
        arrived = [
            Arrived(upload, predictor, self.store, columns, self.sinks) for upload in uploads
        ]
        futures = self.engine.submit(arrived, predictor, due)
        try:
            groups = await asyncio.gather(*map(asyncio.wrap_future, futures))
        except BaseException:
            await asyncio.shield(asyncio.to_thread(discard, arrived, futures))
            raise
        # from here on the rows may be written, even if the request is cancelled
        every = [row for rows in groups for row in rows]
        try:
            await asyncio.shield(asyncio.wrap_future(self.recorder.add(*every)))
        except OutputError:
            await asyncio.to_thread(discard, arrived, futures)
            raise
        inspections = [rows[0] for rows in groups]
        for inspection in inspections:
            for listener in self.recorded:
                listener(inspection)
        return inspections

    def stop(self) -> None:
        """Finish the accepted images, and end."""
        self.stopping = True
        self.engine.stop()
        self.recorder.stop()


def discard(arrived: Sequence[Arrived], futures: Sequence[Future[Any]]) -> None:
    """Keep none of some images: those that a lane is busy with, once it is done with them."""
    for image, future in zip(arrived, futures, strict=True):
        future.cancel()
        future.add_done_callback(image.discard)
