"""A disk that is full or closed, at each write of a command: a clear message, and nothing lost."""

import errno
import os
from pathlib import Path

import pytest
import torch

import cli
from callbacks.run_folder import check_writable
from moleflow_pl.errors import OutputError
from moleflow_pl.state import STATE_KEY
from tests.story import MODEL, Story

FULL = Path("/dev/full")  # every write to it finds no space
WRITES = (
    "config.yaml.part", "last.ckpt.part", "tasks/00-b.ckpt.part", "metrics.csv",
    "report/report.html.part", "report/matrix.csv.part", "report/scores.csv.part",
    "report/summary.json.part",
)  # fmt: skip


def failure(monkeypatch: pytest.MonkeyPatch, where: Path, *args: object) -> str:
    monkeypatch.chdir(where)
    monkeypatch.setattr("sys.argv", ["moleflow"])
    with pytest.raises(SystemExit) as error:
        cli.main([*map(str, args), "--trainer.enable_progress_bar=false"])
    return str(error.value)


def full_at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(FULL)
    return path


@pytest.mark.parametrize("name", WRITES)
def test_full_disk_stops_a_fit_with_the_name_of_the_file(
    name: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    full_at(run / name)
    flags = [f"--data.root={data_root}", "--data.tasks=[b]", *MODEL]
    flags += [f"--trainer.default_root_dir={run}", "--schedule.epochs_per_task=1"]
    said = failure(monkeypatch, tmp_path, "fit", *flags)
    assert said.startswith(f"moleflow: cannot write {run / name.removesuffix('.part')}: No space")
    assert "make room there" in said
    for path in run.rglob("*.ckpt"):
        assert STATE_KEY in torch.load(path, weights_only=True)
    # the curves are written last
    assert (run / "report" / "summary.json").exists() == (name == "metrics.csv")


@pytest.mark.parametrize(
    "name", ["last.ckpt.part", "tasks/02-c.ckpt.part", "report/scores.csv.part"]
)
def test_full_disk_leaves_what_a_run_had_and_the_command_goes_on_later(
    name: str, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = story.copy_to(tmp_path)
    full_at(run / name)
    args = ["fit", f"--ckpt_path={run / 'last.ckpt'}", "--data.tasks=[01, b, c]"]
    before = (run / "last.ckpt").read_bytes()
    assert "No space left" in failure(monkeypatch, tmp_path, *args)
    if name.startswith("last"):
        assert (run / "last.ckpt").read_bytes() == before
    assert story.summary_now(run)["tasks"] == ["01", "b"]
    cli.main([*args, "--trainer.enable_progress_bar=false"])
    assert story.summary_now(run)["tasks"] == ["01", "b", "c"]


@pytest.mark.parametrize(
    "name",
    ["run.json.part", "predictions.csv.part", "b/test/good/000.png.jpg", "b/test/good/000.png.npy"],
)
def test_full_disk_stops_predict_with_the_name_of_the_file(
    name: str, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = story.copy_to(tmp_path)
    folder = {".jpg": "heatmaps", ".npy": "maps"}.get(Path(name).suffix, "")
    path = full_at(run / "predictions" / folder / name)
    flags = [f"--ckpt_path={run / 'last.ckpt'}", "--predictions.maps=npy"]
    said = failure(monkeypatch, tmp_path, "predict", *flags)
    assert said.startswith(f"moleflow: cannot write {str(path).removesuffix('.part')}: No space")


@pytest.mark.parametrize("name", ["run", "metrics.csv", ".writable"])
def test_closed_folder_stops_a_fit_before_it_begins(
    name: str, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = story.copy_to(tmp_path)
    rename = os.rename

    def closed(source: object, target: object, **options: object) -> None:
        if Path(str(source)).name.removesuffix(".part") == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", closed)
    monkeypatch.setattr(os, "replace", closed)
    goes_on = [f"--ckpt_path={run / 'last.ckpt'}"]
    anew = [f"--data.root={story.data}", "--data.tasks=[b]", *MODEL]
    anew += [f"--trainer.default_root_dir={run}"]
    said = failure(monkeypatch, tmp_path, "fit", *(anew if name == "run" else goes_on))
    assert "Permission denied" in said
    assert "allow writing there" in said
    assert (run / "last.ckpt").read_bytes() == (story.moved / "last.ckpt").read_bytes()


def test_folder_that_takes_no_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", closed)
    with pytest.raises(OutputError, match="read-only"):
        check_writable(tmp_path / "run")
