"""How long images are kept: by age and by size, reviewed ones longest."""

from __future__ import annotations

import asyncio
import calendar
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from moleflow_pl.service.database import Database, Inspection, Review
from moleflow_pl.service.health import Health
from moleflow_pl.service.images import DAY, KEPT_NAME, ImageStore

LOOK = 300.0  # seconds between two looks
RECORDING = 120.0  # seconds beyond a deadline in which a row may still be written
DAY_SECONDS = 86400
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Limits:
    """How long images are kept.

    Attributes:
        seconds: An image without a review is removed after so long.
        size: Bytes of all images, beyond which the oldest are removed.
        recording: Seconds after which an image without a row will never have one.
    """

    seconds: float
    size: float
    recording: float = RECORDING


@dataclass(frozen=True)
class KeptImage:
    """An image in the folder.

    Attributes:
        place: Its path below the folder; their order is that of time.
        size: Bytes.
        modified: When it was written.
    """

    place: str
    size: int
    modified: float


class Keeper:
    """Removes images that are kept no longer; their inspections stay in the record.

    Images with a review that was neither applied nor exported are never removed. Of the others,
    those without a review go by age, and the oldest go where all need too much room: first those
    without a review. An image that was kept by a process that was killed before it could record it
    has no row, and goes too.

    Args:
        database: The record.
        store: Its images.
        limits: How long they are kept.
    """

    def __init__(self, database: Database, store: ImageStore, limits: Limits) -> None:
        self.database, self.store, self.limits = database, store, limits
        self.health = Health("images")
        self._recorded_until = -math.inf  # all images from before have rows

    async def run(self) -> None:
        """Look for ever; one process of a machine does."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK)

    def look(self) -> list[str]:
        """Remove the images that are due; return their places."""
        images = sorted(self._images(), key=lambda image: image.place)
        lost = self._without_row(images)
        lost_places = {image.place for image in lost}
        stored = [image for image in images if image.place not in lost_places]
        removed = [*lost, *self._due(stored)]
        for image in removed:
            self.store.discard(image.place)
        for day in {image.place.partition("/")[0] for image in removed}:
            with suppress(OSError):  # it holds others
                (self.store.folder / day).rmdir()
        return [image.place for image in removed]

    def _images(self) -> Iterator[KeptImage]:
        """Every image that the store has kept, and nothing else in its folder."""
        for day in scan(self.store.folder):
            if DAY.fullmatch(day.name):
                for entry in scan(Path(day.path)):
                    with suppress(FileNotFoundError):  # discarded meanwhile
                        if KEPT_NAME.fullmatch(entry.name):
                            stat = entry.stat(follow_symlinks=False)
                            place = f"{day.name}/{entry.name}"
                            yield KeptImage(place, stat.st_size, stat.st_mtime)

    def _without_row(self, images: Iterable[KeptImage]) -> list[KeptImage]:
        """Images that came since the last look, and will never have a row."""
        until = time.time() - self.limits.recording
        by_day: dict[str, list[KeptImage]] = {}
        for image in images:
            if self._recorded_until < image.modified <= until:
                by_day.setdefault(image.place.partition("/")[0], []).append(image)
        lost = []
        for day, these in by_day.items():
            recorded = self._recorded(day)
            lost += [image for image in these if image.place not in recorded]
        self._recorded_until = until
        return lost

    def _recorded(self, day: str) -> set[str]:
        """The images of the inspections of a day, and a few of its neighbours."""
        begin = calendar.timegm(time.strptime(day, "%Y-%m-%d"))
        near = Inspection.time.between(begin - 3600, begin + 2 * DAY_SECONDS)
        query = select(Inspection.image_path).where(near, Inspection.image_path.is_not(None))
        with self.database.reading() as session:
            return {str(place) for place in session.scalars(query)}

    def _due(self, images: list[KeptImage]) -> list[KeptImage]:
        """Images beyond the limits, the oldest of each kind first."""
        used = self._reviewed()
        plain = [image for image in images if image.place not in used]
        reviewed = [image for image in images if used.get(image.place)]
        oldest, total = time.time() - self.limits.seconds, sum(image.size for image in images)
        due = []
        for image in [*plain, *reviewed]:
            old = image.place not in used and image.modified < oldest
            if old or total > self.limits.size:
                due.append(image)
                total -= image.size
        detail = f"{len(images) - len(due)} images, {total / GIBIBYTE:.2f} GiB"
        if total > self.limits.size:
            detail += ": apply or export their reviews, and they may go (--keep-gb)"
        self.health.set_state(total <= self.limits.size, detail)
        return due

    def _reviewed(self) -> dict[str, bool]:
        """Reviewed images, and whether the review that counts was applied or exported."""
        query = (
            select(Inspection.image_path, Review.applied_when, Review.exported_when)
            .join(Review)
            .where(Review.undone_when.is_(None), Inspection.image_path.is_not(None))
            .order_by(Review.id)
        )
        with self.database.reading() as session:
            rows = session.execute(query).all()
        return {
            str(place): not (applied is None and exported is None)
            for place, applied, exported in rows
        }


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
