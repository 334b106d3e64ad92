import errno
import os
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from moleflow_pl.callbacks.curves import RunCurves
from moleflow_pl.errors import OutputError


def test_curves_go_to_the_run_folder(tmp_path: Path) -> None:
    curves = RunCurves(tmp_path)
    curves.log_metrics({"a": 1.0}, step=0)
    curves.save()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "a,step"


def test_curves_of_an_earlier_fit_are_kept_and_a_logger_that_logs_nothing_leaves_them(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for value in (1.0, 2.0):
        curves = RunCurves(tmp_path)
        curves.log_metrics({"a": value}, step=0)
        curves.save()
        silent = RunCurves(tmp_path)
        assert silent.experiment is None
        silent.save()
        silent.finalize("success")
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name: text.splitlines()[1] for name, text in texts.items()} == {
        "metrics.csv": "2.0,0", "metrics~1.csv": "1.0,0",
    }  # fmt: skip
    assert not recwarn.list


def test_read_only_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = RunCurves(tmp_path)
    curves.log_metrics({"a": 1.0}, step=0)

    def closed(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(type(curves.experiment._fs), "open", closed)
    with pytest.raises(OutputError, match="cannot write .*metrics.csv: Permission denied"):
        curves.save()


def test_curves_of_any_name_are_utf8_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings = []
    open_file = LocalFileSystem.open

    def spying(self: LocalFileSystem, path: str, mode: str = "rb", **options: object) -> object:
        if "b" not in mode:
            encodings.append(options.get("encoding"))
        return open_file(self, path, mode, **options)

    monkeypatch.setattr(LocalFileSystem, "open", spying)
    curves = RunCurves(tmp_path)
    for step, name in enumerate(("ネジ", "é")):
        curves.log_metrics({name: 1.0}, step=step)
        curves.save()
    assert set(encodings) == {"utf-8"}
    assert (tmp_path / "metrics.csv").read_text("utf-8").splitlines()[0] == "step,é,ネジ"
