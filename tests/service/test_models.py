"""Which model a service uses."""

import subprocess
import sys
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import CheckpointError
from moleflow_pl.service.database import Audit, Database, Model
from moleflow_pl.service.models import newest, publish
from tests.helpers.commands import ROOT
from tests.helpers.service import count

# how many threads a loaded model adds, and how many torch may use; the system lists a thread of a
# closed pool for a moment longer
LOADED = """
import os, sys, time, torch
torch.set_num_threads(4)
from moleflow_pl.service.models import load
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
load(sys.argv[1])
patience = time.monotonic() + 5
while threads() > before and time.monotonic() < patience:
    time.sleep(0.01)
print(threads() - before, torch.get_num_threads())
"""


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


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by /proc")
def test_loading_a_model_leaves_no_threads_of_openmp_behind() -> None:
    words = [
        sys.executable,
        "-c",
        LOADED,
        str(ROOT / "tests" / "formats" / "schema1" / "last.ckpt"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["0", "4"]
