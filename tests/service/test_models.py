"""Which model a service uses."""

from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import CheckpointError
from moleflow_pl.service.database import Audit, Database, Model
from moleflow_pl.service.models import newest, publish
from tests.helpers.service import count


def test_a_version_is_published_once_and_audited(
    tmp_path: Path, learned: tuple[Path, MoLEFlow]
) -> None:
    database = Database(tmp_path / "line.sqlite")
    first = publish(database, learned[0], "start")
    assert publish(database, learned[0] / "last.ckpt", "start").id == first.id
    (tmp_path / "other.ckpt").write_bytes(b"other")
    second = publish(database, tmp_path / "other.ckpt", "ann")
    with database.reading() as session:
        assert newest(session).id == second.id  # type: ignore[union-attr]
    assert (count(database, Model), count(database, Audit)) == (2, 2)


def test_a_model_that_is_not_there_is_not_published(tmp_path: Path) -> None:
    database = Database(tmp_path / "line.sqlite")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        publish(database, tmp_path, "ann")
    assert count(database, Model) == 0
