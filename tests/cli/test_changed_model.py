import logging
import shlex
from pathlib import Path
from typing import Any

import pytest

from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.cli import export
from moleflow_pl.cli import main as cli
from moleflow_pl.cli.changed_model import save_changed
from moleflow_pl.tasks.schedule import TaskSchedule
from tests.helpers.checkpoints import bare_checkpoint


def saved(root: Path, caplog: pytest.LogCaptureFixture, config: str = "") -> list[str]:
    """What is said when the model of a run with the products `b` and `c`, `d` has changed."""
    schedule = TaskSchedule()
    schedule.extend([["b"], ["c", "d"]], epochs=1)
    path = RunFolder(root).last
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        save_changed(bare_checkpoint(config, tasks=schedule.state()), path)
    assert read_checkpoint(path)
    first, *others = caplog.messages
    assert first == f"saved: {path}"
    return others


def exported(root: Path, *names: str) -> None:
    (root / "export").mkdir()
    for name in names:
        (root / "export" / name).touch()


def test_a_changed_model_names_its_file_alone_where_nothing_is_older(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exported(tmp_path)
    assert saved(tmp_path, caplog) == []


@pytest.mark.parametrize("name", ["moleflow.onnx", "moleflow.pt2", "b.onnx", "d.pt2", "c+d.onnx"])
def test_an_older_exported_file_has_the_command_that_writes_just_this_file(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(tmp_path, name, f"{name}.sha256", f"{name}.data")
    (line,) = saved(tmp_path, caplog)
    file = tmp_path / "export" / name
    assert line.startswith(f"{file} holds the old model: moleflow export {tmp_path}")
    command = line.partition(": ")[2].removesuffix(" writes it anew")
    written: list[Any] = []
    monkeypatch.setattr(
        "moleflow_pl.export.pipeline.export_checkpoint", lambda *args, **_: written.append(args)
    )
    cli.main(shlex.split(command)[1:])
    ((_, output, kind, *_),) = written
    assert (output, export.SUFFIXES[kind]) == (file, file.suffix)


def test_a_file_of_another_name_is_written_to_its_place_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exported(tmp_path, "mono.onnx", "mono.engine")
    engine, mono = saved(tmp_path, caplog)
    assert engine.endswith("mono.engine holds the old model, if it was made of an exported file")
    file = tmp_path / "export" / "mono.onnx"
    assert f"--output {file}, with --product NAME if it held one product, writes" in mono


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("", ""),
        ("data: {layout: visa}", ""),
        ("data: {layout: folder}", " --data.layout mvtec --data.root DATA"),
    ],
)
def test_an_older_report_has_the_command_that_writes_it_anew(
    config: str, options: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = RunFolder(tmp_path).page
    page.parent.mkdir()
    page.touch()
    assert saved(tmp_path, caplog, config) == [
        f"{page} shows the old thresholds: moleflow test {tmp_path}{options} writes it anew"
    ]
