"""New products: learned in a separate process, then added to the current model."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select

from moleflow_pl._internal.files import read_json, token, writing
from moleflow_pl._internal.names import check_name
from moleflow_pl.checkpoints.expert_edits import add, extract, learned_schedule
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.checkpoints.run_folder import LAST, RunFolder
from moleflow_pl.checkpoints.run_lock import locked_for
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.service.applications import LOCK, adopt
from moleflow_pl.service.database import Audit, Base, Database, Setting
from moleflow_pl.service.health import Health
from moleflow_pl.service.locks import BusyError, exclusive
from moleflow_pl.service.machine import this_machine
from moleflow_pl.service.reviews import checkpoint_in_use

logger = logging.getLogger(__name__)

JOB = "job "  # prefix of the names of settings that hold jobs
UPLOADS = "products"  # folder of uploaded images, in that of the service
FEWEST_IMAGES = 2
LOOK = 1.0  # seconds between two checks of the progress
LONGEST_REASON = 500  # characters of an error

PROGRESS, LOG = "progress.json", "log.txt"  # of a job, in its folder
State = Literal["waits", "learns", "learned", "failed"]
OPEN = ("waits", "learns")  # states of jobs that have not ended


@dataclass
class Job:
    """A product to learn.

    Attributes:
        number: Identifies the job.
        product: The product.
        images: Folder of its good images.
        epochs: Epochs to learn.
        who: Who requested it.
        when: When it was requested.
        machine: The machine that has the images, and learns the product.
        state: Its state.
        share: Share of its epochs that are done.
        reason: Why it failed.
    """

    number: str
    product: str
    images: str
    epochs: int
    who: str
    when: float
    machine: str
    state: State = "waits"
    share: float = 0.0
    reason: str = ""


def jobs(database: Database) -> list[Job]:
    """All jobs, the oldest first."""
    with database.reading() as session:
        rows = session.scalars(select(Setting).where(Setting.name.startswith(JOB))).all()
    all_jobs = [Job(**json.loads(row.value)) for row in rows]
    return sorted(all_jobs, key=lambda job: (job.when, job.number))


def keep(database: Database, job: Job, *others: Base) -> None:
    """Write a job, and other rows with it, into the database."""
    with database.writing() as session:
        session.merge(Setting(name=f"{JOB}{job.number}", value=json.dumps(asdict(job))))
        session.add_all(others)


def order(database: Database, product: str, images: Path, who: str, epochs: int = 10) -> Job:
    """Request that a product is learned.

    Args:
        database: The record.
        product: Its name.
        images: Folder of its good images on this machine.
        who: Who requests it, for the audit log.
        epochs: Epochs to learn.

    Raises:
        ConfigError: the model already knows the product, or is learning it.
        DataError: the name is invalid, or there is no such folder.
    """
    check_name(product)
    if not images.is_dir():
        raise DataError(f"no folder of images at {images}: give a folder on the service's machine")
    begun = [job.product for job in jobs(database) if job.state in OPEN]
    if product in products_of(checkpoint_in_use(database)) + begun:
        raise ConfigError(
            f"the product {product!r} is already known or being learned: choose another name"
        )
    job = Job(token(), product, str(images.absolute()), epochs, who, time.time(), this_machine())
    detail = {"product": product, "images": job.images}
    keep(database, job, Audit(when=job.when, who=who, action="order product", detail=detail))
    return job


def products_of(path: Path) -> list[str]:
    """The products that the model of a checkpoint knows."""
    schedule = learned_schedule(read_checkpoint(path))
    return [name for task in schedule.tasks for name in task.products]


def save_uploads(folder: Path, contents: Iterable[tuple[str, bytes]]) -> Path:
    """Store uploaded images in a new folder under generated names.

    Args:
        folder: Parent of such folders.
        contents: Suffix and bytes of each file.

    Raises:
        DataError: there are too few images.
        OutputError: the images cannot be written.
    """
    place, count = folder / token(), 0
    try:
        with writing(place):
            place.mkdir(parents=True)
            for i, (ending, content) in enumerate(contents):
                (place / f"{i:05d}{ending}").write_bytes(content)
                count = i + 1
        if count < FEWEST_IMAGES:
            raise DataError(f"a product needs at least {FEWEST_IMAGES} good images, got {count}")
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


class Teacher:
    """Learns requested products one after another.

    Args:
        database: The record.
        folder: Parent of the work folders, beside the folder of uploaded images.
        backbone_weights: Where the backbone's weights are, if they have moved.
    """

    def __init__(
        self, database: Database, folder: Path, backbone_weights: str | None = None
    ) -> None:
        self.database, self.folder, self.backbone_weights = database, folder, backbone_weights
        self.health = Health("learning")

    async def run(self) -> None:
        """Check for jobs for ever; only one process of a machine does this."""
        for job in await asyncio.to_thread(self._jobs):
            if job.state not in OPEN:  # a killed service may have left something
                await asyncio.to_thread(self._clean, job)
        while True:
            begun = [job for job in await asyncio.to_thread(self._jobs) if job.state in OPEN]
            self.health.set_state(True, "running")
            if begun:
                await self.learn(begun[0])
            else:
                await asyncio.sleep(LOOK)

    def _jobs(self) -> list[Job]:
        """The jobs of this machine, which has their images."""
        return [job for job in jobs(self.database) if job.machine == this_machine()]

    async def learn(self, job: Job) -> None:
        """Learn a product, add its expert to the model, and record the result in the job."""
        work, resumed = self.folder / job.number, job.state == "learns"
        try:
            await asyncio.to_thread(new_folder, work)
            job.state = "learns"
            await asyncio.to_thread(keep, self.database, job)
            if not (resumed and await asyncio.to_thread(self._was_added, job)):
                await self._teach(job, work)
                await asyncio.to_thread(self._add_expert, job, work / LAST)
            job.state, job.share = "learned", 1.0
        except Exception as error:  # a failed job must not stop the next one
            job.state, job.reason = "failed", (str(error) or type(error).__name__)[:LONGEST_REASON]
            logger.warning("%s was not learned: %s", job.product, job.reason)
        await asyncio.to_thread(keep, self.database, job)
        await asyncio.to_thread(self._clean, job)

    def _clean(self, job: Job) -> None:
        """Remove what a job leaves, and the images that were uploaded for it."""
        shutil.rmtree(self.folder / job.number, ignore_errors=True)
        if Path(job.images).is_relative_to((self.folder.parent / UPLOADS).absolute()):
            shutil.rmtree(job.images, ignore_errors=True)  # ours, and never needed again

    async def _teach(self, job: Job, work: Path) -> None:
        """Run the process, and follow its progress.

        Raises:
            DataError: the process failed.
        """
        checkpoint = await asyncio.to_thread(checkpoint_in_use, self.database)
        words = [str(checkpoint), job.product, job.images, str(work)]
        words += ["--epochs", str(job.epochs)]
        if self.backbone_weights is not None:
            words += ["--backbone-weights", self.backbone_weights]
        command = [sys.executable, "-m", "moleflow_pl.service.learn", *words]
        log = await asyncio.to_thread((work / LOG).open, "wb")
        with log:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        ended = asyncio.create_task(process.wait())
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=LOOK)
                share = (await asyncio.to_thread(progress_of, work)).get("share", 0.0)
                if share != job.share:
                    job.share = share
                    await asyncio.to_thread(keep, self.database, job)
        finally:
            if not ended.done():  # the service ends
                process.terminate()
                await ended
        if process.returncode:
            progress = await asyncio.to_thread(progress_of, work)
            raise DataError(progress.get("error") or f"it ended with {process.returncode}")

    def _was_added(self, job: Job) -> bool:
        """Whether a killed service had added the expert; if so, its model is adopted."""
        with waiting_for(self.database, LOCK):
            path = checkpoint_in_use(self.database)
            known = job.product in products_of(path)
            if known:
                adopt(self.database, path, job.who)
        return known

    def _add_expert(self, job: Job, file: Path) -> None:
        """Add the learned expert to the current model."""
        expert = extract(read_checkpoint(file), job.product)
        with waiting_for(self.database, LOCK):
            path = checkpoint_in_use(self.database)
            with locked_for(path, RunFolder.of(path).root):
                checkpoint = read_checkpoint(path)
                add(checkpoint, expert)
                write_checkpoint(checkpoint, path)
            adopt(self.database, path, job.who)


def new_folder(work: Path) -> None:
    """Create a work folder in place of one that a killed service left."""
    shutil.rmtree(work, ignore_errors=True)
    with writing(work):
        work.mkdir(parents=True)


@contextmanager
def waiting_for(database: Database, name: str) -> Iterator[None]:
    """As `exclusive`, but wait until the lock is free."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(database, name))
                break
            except BusyError:
                time.sleep(LOOK)
        yield


def progress_of(work: Path) -> dict[str, Any]:
    """The progress that the process wrote; empty before it does."""
    try:
        return dict(read_json(work / PROGRESS))
    except (OSError, ValueError, TypeError):
        return {}
