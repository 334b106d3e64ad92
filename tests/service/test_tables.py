"""Tables by which the processes of a service agree."""

from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from moleflow_pl.service.database import Database
from moleflow_pl.service.tables import Application, Base


def test_a_mark_stands_for_one_application(tmp_path: Path) -> None:
    database = Database(tmp_path / "line.sqlite")
    row = {"mark": "m", "path": "x", "expert": "b", "reviews": [1, 2], "who": "Ann", "done": None}
    with pytest.raises(IntegrityError), database.writing() as session:
        session.add_all([Application(**row), Application(**row)])


def test_every_database_has_all_tables() -> None:
    names = {"inspections", "reviews", "audit", "models", "applications", "parts", "leases"}
    assert names <= set(Base.metadata.tables)
