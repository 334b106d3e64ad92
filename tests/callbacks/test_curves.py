import errno
import os
from pathlib import Path

import pytest

from moleflow_pl.callbacks.curves import RunCurves
from moleflow_pl.errors import OutputError


def test_curves_go_to_the_run_folder(tmp_path: Path) -> None:
    curves = RunCurves(tmp_path)
    curves.log_metrics({"a": 1.0}, step=0)
    curves.save()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "a,step"


def test_closed_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = RunCurves(tmp_path)
    curves.log_metrics({"a": 1.0}, step=0)

    def closed(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(type(curves.experiment._fs), "open", closed)
    with pytest.raises(OutputError, match="cannot write .*metrics.csv: Permission denied"):
        curves.save()
