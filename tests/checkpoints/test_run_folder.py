from pathlib import Path

import pytest

from moleflow_pl.checkpoints.run_folder import RunFolder, free_name, move_aside
from moleflow_pl.errors import OutputError


def test_a_checkpoint_tells_its_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert RunFolder.of(run.last) == RunFolder.of(run.task_checkpoint(0, "a")) == run


def test_paths_are_those_of_the_contract() -> None:
    run = RunFolder(Path("runs/x"))
    paths = [
        run.last, run.task_checkpoint(3, "a+b"), run.config, run.curves, run.summary,
        run.predictions, run.expert("a"), run.expert("a", 2), run.update("a", 1).last,
    ]  # fmt: skip
    assert [str(path.relative_to("runs/x")) for path in paths] == [
        "last.ckpt", "tasks/03-a+b.ckpt", "config.yaml", "metrics.csv", "report/summary.json",
        "predictions", "experts/a.safetensors", "experts/versions/a~2.safetensors",
        "updates/a~1/last.ckpt",
    ]  # fmt: skip


def test_free_name_skips_those_that_are_taken(tmp_path: Path) -> None:
    for name in ("a.csv", "a~1.csv"):
        (tmp_path / name).touch()
    assert free_name(tmp_path / "a.csv").name == "a~2.csv"


def test_what_is_moved_aside_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    assert move_aside(tmp_path / "a.csv").read_text() == "x"
    assert not (tmp_path / "a.csv").exists()


def test_folder_that_takes_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(OutputError, match="cannot write"):
        RunFolder(tmp_path / "run").check_writable()


@pytest.mark.parametrize("name", ["tasks", "report", "features"])
def test_file_in_the_place_of_a_folder_is_an_error_before_a_fit(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match=f"cannot write to the folder .*{name}: it is a file"):
        RunFolder(tmp_path).check_writable()


def test_check_of_a_folder_leaves_the_files_in_it_alone(tmp_path: Path) -> None:
    (tmp_path / ".writable").write_text("mine")
    RunFolder(tmp_path).check_writable()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
