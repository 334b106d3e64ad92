import asyncio
import json
from pathlib import Path

import pytest
import torch

from moleflow_pl.checkpoints.expert_edits import add, extract, learned_schedule
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.service.database import Database
from moleflow_pl.service.learn import main
from moleflow_pl.service.machine import NAME
from moleflow_pl.service.models import newest, publish
from moleflow_pl.service.products import (
    PROGRESS,
    UPLOADS,
    Job,
    Teacher,
    jobs,
    keep,
    order,
    save_uploads,
)
from tests.helpers.reviewing import kept_run
from tests.helpers.service import during


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return kept_run(tmp_path / "run")


@pytest.fixture
def database(tmp_path: Path, path: Path) -> Database:
    database = Database(tmp_path / "line.sqlite")
    publish(database, path, "test")
    return database


def images(data_root: Path) -> Path:
    return data_root / "c" / "train" / "good"


def all_is_well(database: Database, path: Path, before: dict, work: Path) -> None:
    """The ordered product is in the model, and the others are equal to the bit."""
    (job,) = jobs(database)
    assert (job.state, job.share, job.reason) == ("learned", 1.0, "")
    after = read_checkpoint(path)
    assert learned_schedule(after).names == ["01", "b", "c"]
    for name in ("01", "b"):
        ours, theirs = extract(before, name), extract(after, name)
        assert ours.task.calibration == theirs.task.calibration
        assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in ours.tensors)
    with database.reading() as session:
        version = newest(session)
    assert version is not None
    assert version.who == "Ann"
    assert not list(work.iterdir())


def test_learned_product_is_put_beside_the_others_which_stay_equal_to_the_bit(
    tmp_path: Path, path: Path, database: Database, data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = read_checkpoint(path)
    contents = [(".png", one.read_bytes()) for one in images(data_root).iterdir()]
    uploaded = save_uploads(tmp_path / UPLOADS, contents)
    order(database, "c", uploaded, "Ann", epochs=1)

    async def teach(self: Teacher, job: Job, work: Path) -> None:
        (work / "log.txt").touch()
        made = read_checkpoint(path)
        add(made, extract(made, "b"), job.product)
        write_checkpoint(made, work / "last.ckpt")

    monkeypatch.setattr(Teacher, "_teach", teach)
    asyncio.run(Teacher(database, tmp_path / "work").learn(jobs(database)[0]))
    all_is_well(database, path, before, tmp_path / "work")
    assert not uploaded.exists()


@pytest.mark.slow
def test_product_is_learned_by_a_process_of_its_own(
    tmp_path: Path, path: Path, database: Database, data_root: Path
) -> None:
    before = read_checkpoint(path)
    order(database, "c", images(data_root), "Ann", epochs=1)
    asyncio.run(Teacher(database, tmp_path / "work").learn(jobs(database)[0]))
    all_is_well(database, path, before, tmp_path / "work")


def test_product_that_cannot_be_learned_says_why_and_leaves_the_model_alone(
    tmp_path: Path, path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, empty = path.read_bytes(), tmp_path / "empty"
    empty.mkdir()
    order(database, "c", empty, "Ann")

    async def teach(self: Teacher, job: Job, work: Path) -> None:
        raise DataError("no images")

    monkeypatch.setattr(Teacher, "_teach", teach)
    asyncio.run(Teacher(database, tmp_path / "work").learn(jobs(database)[0]))
    (job,) = jobs(database)
    assert empty.exists()  # a person's
    assert (job.state, job.reason) == ("failed", "no images")
    assert path.read_bytes() == content


def test_process_tells_why_it_failed(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moleflow_pl.service.learn.os.nice", lambda _: 0)
    work, empty = tmp_path / "work", tmp_path / "empty"
    work.mkdir()
    empty.mkdir()
    assert main([str(path), "c", str(empty), str(work)]) == 3
    assert "no product 'c' in" in json.loads((work / PROGRESS).read_text())["error"]


def test_service_killed_after_it_added_the_expert_does_not_learn_it_again(
    tmp_path: Path, path: Path, database: Database, data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = read_checkpoint(path)
    job = order(database, "c", images(data_root), "Ann", epochs=1)
    job.state = "learns"
    keep(database, job)
    made = read_checkpoint(path)
    add(made, extract(made, "b"), "c")
    write_checkpoint(made, path)

    async def teach(self: Teacher, job: Job, work: Path) -> None:
        raise AssertionError("it is learned already")

    monkeypatch.setattr(Teacher, "_teach", teach)
    asyncio.run(Teacher(database, tmp_path / "work").learn(job))
    all_is_well(database, path, before, tmp_path / "work")


def test_what_a_killed_service_left_of_an_ended_job_is_removed(
    tmp_path: Path, database: Database
) -> None:
    uploaded = save_uploads(tmp_path / UPLOADS, [(".png", b"1"), (".png", b"2")])
    job = order(database, "c", uploaded, "Ann")
    job.state = "learned"
    keep(database, job)
    left = tmp_path / "work" / job.number
    left.mkdir(parents=True)
    run = Teacher(database, tmp_path / "work").run()
    asyncio.run(during(run, lambda: not uploaded.exists()))
    assert not left.exists()


def test_orders_that_cannot_be_are_refused(
    tmp_path: Path, database: Database, data_root: Path
) -> None:
    with pytest.raises(DataError, match="not a valid product name"):
        order(database, "../c", images(data_root), "Ann")
    with pytest.raises(DataError, match="no folder of images at"):
        order(database, "c", tmp_path / "none", "Ann")
    with pytest.raises(ConfigError, match="'b' is already known or being learned"):
        order(database, "b", images(data_root), "Ann")
    order(database, "c", images(data_root), "Ann")
    with pytest.raises(ConfigError, match="'c' is already known or being learned"):
        order(database, "c", images(data_root), "Ann")
    assert [job.product for job in jobs(database)] == ["c"]


def test_failed_product_may_be_ordered_again(database: Database, data_root: Path) -> None:
    job = order(database, "c", images(data_root), "Ann")
    job.state = "failed"
    keep(database, job)
    order(database, "c", images(data_root), "Ann")
    assert [job.state for job in jobs(database)] == ["failed", "waits"]


def test_uploads_are_kept_under_names_of_our_own(tmp_path: Path) -> None:
    place = save_uploads(tmp_path / "products", [(".png", b"1"), (".jpeg", b"2")])
    assert {one.name: one.read_bytes() for one in place.iterdir()} == {
        "00000.png": b"1", "00001.jpeg": b"2",
    }  # fmt: skip
    with pytest.raises(DataError, match="at least 2 good images"):
        save_uploads(tmp_path / "products", [(".png", b"1")])


def test_the_machine_that_has_the_images_learns_the_product(
    tmp_path: Path, database: Database, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[str] = []

    async def learn(self: Teacher, job: Job) -> None:
        learned.append(job.product)
        job.state = "learned"
        keep(self.database, job)

    monkeypatch.setattr(Teacher, "learn", learn)
    monkeypatch.setattr("moleflow_pl.service.products.LOOK", 0.01)
    for machine in ("one", "two"):
        monkeypatch.setenv(NAME, machine)
        order(database, f"of {machine}", images(data_root), "Ann")

    asyncio.run(during(Teacher(database, tmp_path / "work").run(), lambda: learned))
    assert learned == ["of two"]
