"""A disk that is full or closed, at each write of a command: a clear message, and nothing lost."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from moleflow_pl._internal.files import REMEDIES, writing
from moleflow_pl.callbacks import PredictionWriter
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import OutputError
from tests.helpers.commands import MODEL, failure, run_here
from tests.helpers.faults import full_at, refused
from tests.helpers.story import Story


@pytest.fixture(autouse=True)
def _known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give temporary files names that a test knows before they are there."""
    monkeypatch.setattr("moleflow_pl._internal.files.token", lambda: "00000000")


NUMBERS = (errno.ENOSPC, errno.EACCES)


def by_turns(names: Sequence[object]) -> list[Any]:
    """Every file with both faults; one is slow, by turns, so that each file fails at least once."""
    return [
        pytest.param(name, number, marks=[pytest.mark.slow] if (i + j) % 2 else [])
        for i, name in enumerate(names)
        for j, number in enumerate(NUMBERS)
    ]


FIT = (
    ".writer.json.00000000.part", ".writable.00000000.part", "config.yaml.00000000.part",
    "last.ckpt.00000000.part", "tasks/00-b.ckpt.00000000.part", "metrics.csv",
    "report/report.html.00000000.part", "report/matrix.csv.00000000.part",
    "report/scores.csv.00000000.part", "report/summary.json.00000000.part",
)  # fmt: skip
PREDICT = (
    "run.json.00000000.part", "predictions.csv.00000000.part", "skipped.csv.00000000.part",
    "boxes.csv.00000000.part",
    "heatmaps/b/test/good/000.jpg", "maps/b/test/good/000.npy", "maps/b/test/good/000.tiff",
    "masks/b/test/good/000.png",
)  # fmt: skip
# arguments of a verb that changes a checkpoint, and a file that it writes
OTHERS = (
    ("calibrate --false-alarm-rate 0.1", "last.ckpt.00000000.part"),
    ("experts export b", "experts/b.safetensors.00000000.part"),
    ("experts remove b", "experts/versions/b~1.safetensors.00000000.part"),
    ("experts remove b", "last.ckpt.00000000.part"),
    ("experts rename b x", "last.ckpt.00000000.part"),
    ("experts import b.safetensors --name x", "last.ckpt.00000000.part"),
    ("experts update b", "updates/b~1/last.ckpt.00000000.part"),
    ("experts rollback b", "experts/versions/b~2.safetensors.00000000.part"),
    ("experts rollback b", "last.ckpt.00000000.part"),
    ("report", "comparison/comparison.html.00000000.part"),
    ("report", "comparison/comparison.tex.00000000.part"),
    ("report", "comparison/comparison.csv.00000000.part"),
)


@contextmanager
def broken(path: Path, number: int) -> Iterator[None]:
    """A disk that is full once a file is written, or that does not let it be opened."""
    if number == errno.ENOSPC:
        full_at(path)
        yield
    else:
        with refused(path, number):
            yield


def told(path: Path, number: int) -> str:
    """How the message begins."""
    place = str(path).removesuffix(".00000000.part")
    return f"moleflow: cannot write {place}: {os.strerror(number)}; "


def anew(data: Path, run: Path) -> list[str]:
    flags = [f"--data.root={data}", "--data.tasks=[b]", *MODEL, "--schedule.epochs_per_task=1"]
    return [*flags, f"--trainer.default_root_dir={run}"]


@pytest.mark.parametrize(("name", "number"), by_turns(FIT))
def test_disk_that_fails_stops_a_fit_with_the_name_of_the_file(
    name: str, number: int, data_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # curves that are there before a fit would be refused as those of someone else
    fault = refused if name == "metrics.csv" else broken
    with fault(run / name, number):
        said = failure(tmp_path, "fit", *anew(data_root, run))
    assert said.startswith(told(run / name, number))
    assert REMEDIES[number] in said
    for path in run.rglob("*.ckpt"):
        assert STATE_KEY in torch.load(path, weights_only=True)
    # the curves are written last
    assert (run / "report" / "summary.json").exists() == (name == "metrics.csv")


@pytest.mark.parametrize("number", NUMBERS)
def test_disk_that_fails_at_the_features_stops_a_fit_and_says_what_does_without(
    number: int, data_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = [*anew(data_root, run), "--data.feature_memory_gb=0"]
    with refused(f"{run / 'features'}{os.sep}", number):
        said = failure(tmp_path, "fit", *flags)
    assert str(run / "features") in said
    assert os.strerror(number) in said
    assert "data.cache_features to false" in said
    assert not list((run / "features").iterdir())
    run_here(tmp_path, "fit", *flags, "--data.cache_features=false")
    assert (run / "report" / "summary.json").exists()


@pytest.mark.parametrize(
    "name",
    ["last.ckpt.00000000.part", "tasks/02-c.ckpt.00000000.part", "report/scores.csv.00000000.part"],
)
def test_full_disk_leaves_what_a_run_had_and_the_command_goes_on_later(
    name: str, story: Story, tmp_path: Path
) -> None:
    run = story.copy_to(tmp_path)
    full_at(run / name)
    args = ["fit", f"--ckpt_path={run / 'last.ckpt'}", "--data.tasks=[01, b, c]"]
    before = (run / "last.ckpt").read_bytes()
    assert "No space left" in failure(tmp_path, *args)
    if name.startswith("last"):
        assert (run / "last.ckpt").read_bytes() == before
    assert story.summary_of(run)["tasks"] == ["01", "b"]
    run_here(tmp_path, *args)
    assert story.summary_of(run)["tasks"] == ["01", "b", "c"]


@pytest.mark.parametrize(("name", "number"), by_turns(PREDICT))
def test_disk_that_fails_stops_predict_with_the_name_of_the_file(
    name: str, number: int, story: Story, tmp_path: Path
) -> None:
    run = story.copy_to(tmp_path)
    form = "tiff" if name.endswith(".tiff") else "npy"
    flags = [
        f"--ckpt_path={run / 'last.ckpt'}",
        f"--predictions.maps={form}",
        "--predictions.masks=true",
    ]
    path = run / "predictions" / name
    with broken(path, number):
        said = failure(tmp_path, "predict", *flags, "--predictions.boxes=true")
    assert said.startswith(told(path, number))


@pytest.mark.parametrize("number", NUMBERS)
def test_row_that_cannot_be_added_stops_predict_and_it_goes_on_later(
    number: int, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = story.copy_to(tmp_path)
    flags = ["predict", f"--ckpt_path={run / 'last.ckpt'}", "--predictions.heatmaps=false"]
    table = run / "predictions" / "predictions.csv"
    write = PredictionWriter._write

    def failing(self: PredictionWriter, name: str, rows: list) -> None:
        with writing(table):
            if table.read_text().count("\n") > 4:
                raise OSError(number, os.strerror(number))
        write(self, name, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionWriter, "_write", failing)
        assert failure(tmp_path, *flags).startswith(told(table, number))
    run_here(tmp_path, *flags)
    paths = [row.split(",")[0] for row in table.read_text().splitlines()[1:]]
    assert len(paths) == len(set(paths)) == 12


@pytest.mark.parametrize(("change", "number"), by_turns(OTHERS))
def test_disk_that_fails_leaves_the_model_as_it_was(
    change: tuple[str, str], number: int, story: Story, tmp_path: Path
) -> None:
    args, name = change
    run = story.copy_to(tmp_path)
    given = args.split()
    if "rollback" in given:
        run_here(tmp_path, "experts", "update", "b", f"--ckpt_path={run / 'last.ckpt'}")
    before = (run / "last.ckpt").read_bytes()
    if "import" in given:
        export = ["experts", "export", "b", "--output", str(tmp_path / "b.safetensors")]
        run_here(tmp_path, *export, f"--ckpt_path={run / 'last.ckpt'}")
    if given == ["report"]:
        given += [f"--run={run}", f"--output={run / 'comparison'}"]
    else:
        given.append(f"--ckpt_path={run / 'last.ckpt'}")
    path = run / name
    # an update's folder that is there before it begins would be moved aside, with the full file
    fault = refused if "update" in given else broken
    with fault(path, number):
        said = failure(tmp_path, *given)
    assert said.startswith(told(path, number))
    assert (run / "last.ckpt").read_bytes() == before
    assert not list(run.rglob("*.part"))


@pytest.mark.parametrize(("kind", "number"), by_turns(["torch", "onnx"]))
def test_disk_that_fails_leaves_no_half_export(
    kind: str, number: int, story: Story, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "model"
    args = ["export", f"--ckpt_path={story.moved / 'last.ckpt'}", f"--output={output}"]
    with refused(f"{output.parent}{os.sep}", number):
        said = failure(tmp_path, *args, f"--format={kind}")
    assert said.startswith(told(output, number))
    assert not list(output.parent.iterdir())


@pytest.mark.parametrize("name", ["run", "metrics.csv", ".writable"])
def test_closed_folder_stops_a_fit_before_it_begins(
    name: str, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = story.copy_to(tmp_path)
    rename = os.rename

    def closed(source: object, target: object, **options: object) -> None:
        if Path(str(source)).name.removesuffix(".00000000.part") == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", closed)
    monkeypatch.setattr(os, "replace", closed)
    goes_on = [f"--ckpt_path={run / 'last.ckpt'}"]
    args = anew(story.data, run) if name == "run" else goes_on
    said = failure(tmp_path, "fit", *args)
    assert "Permission denied" in said
    assert "allow writing there" in said
    assert (run / "last.ckpt").read_bytes() == (story.moved / "last.ckpt").read_bytes()


def test_folder_that_takes_no_file_is_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", closed)
    with pytest.raises(OutputError, match="read-only"):
        RunFolder(tmp_path / "run").check_writable()
