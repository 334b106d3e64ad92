from pathlib import Path

import pytest

from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.resume import prepare_run
from moleflow_pl.errors import ConfigError, OutputError
from tests.helpers.checkpoints import bare_checkpoint, save_sealed


def old_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.yaml", "last.ckpt", "metrics.csv"):
        (folder / name).write_text(name)
    return folder


def test_new_fit_moves_the_old_run_aside_and_deletes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "v1.5"
    for number in (1, 2):
        old_run(run)
        prepare_run(run)
        assert not run.exists()
        moved = tmp_path / f"v1.5~{number}"
        assert sorted(p.name for p in moved.iterdir()) == [
            "config.yaml",
            "last.ckpt",
            "metrics.csv",
        ]


def test_fit_that_goes_on_stays_in_its_folder(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    last = checkpoint_of(run / "last.ckpt", 2)
    prepare_run(run, last, read_checkpoint(last))
    names = sorted(path.name for path in run.iterdir())
    assert names == ["config.yaml", "last.ckpt", "metrics.csv"]


def checkpoint_of(path: Path, epochs: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tasks = [{"products": ["a"], "epochs": 9, "epochs_done": epochs}]
    save_sealed(bare_checkpoint(tasks=tasks), path)
    return path


def test_fit_from_an_earlier_task_moves_the_run_that_went_further_aside(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    last = checkpoint_of(run / "last.ckpt", 4)
    early = checkpoint_of(run / "tasks" / "00-a.ckpt", 2)
    moved = prepare_run(run, early, read_checkpoint(early))
    assert moved == tmp_path / "run~1" / "tasks" / "00-a.ckpt"
    assert moved.exists()
    assert not run.exists()
    assert not last.exists()


def test_fit_from_a_task_stays_where_nothing_went_further(tmp_path: Path) -> None:
    early = checkpoint_of(tmp_path / "run" / "tasks" / "00-a.ckpt", 2)
    content = read_checkpoint(early)
    assert prepare_run(tmp_path / "run", early, content) == early
    (tmp_path / "run" / "last.ckpt").write_bytes(b"damaged")
    assert prepare_run(tmp_path / "run", early, content) == early


def test_fit_from_another_runs_checkpoint_moves_what_is_in_its_way(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    other = checkpoint_of(tmp_path / "other" / "last.ckpt", 8)
    assert prepare_run(run, other, read_checkpoint(other)) == other
    assert (tmp_path / "run~1" / "last.ckpt").exists()


@pytest.mark.parametrize("name", ["metrics.csv", "tasks/00-a.ckpt", "report/report.html", "tasks"])
def test_files_that_a_fit_would_overwrite_are_refused_where_no_run_is(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for content in (None, {}):
        with pytest.raises(OutputError, match=f"but {Path(name).parts[0]}, which a fit would ov"):
            prepare_run(tmp_path, content=content)
    assert (tmp_path / name).read_text() == "mine"


def test_folder_that_holds_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "kept.npy").touch()  # a store of features may be there
    prepare_run(tmp_path)
    prepare_run(tmp_path / "missing")
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "features" / "kept.npy").exists()


def test_working_folder_is_not_pulled_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = old_run(tmp_path / "run")
    monkeypatch.chdir(run)
    with pytest.raises(ConfigError, match="is the working directory"):
        prepare_run(Path())
    assert (run / "last.ckpt").exists()
