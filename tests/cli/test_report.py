from pathlib import Path

import pytest

from moleflow_pl.cli.report import main


def test_report_wants_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path)])
    assert "--run" in capsys.readouterr().err
