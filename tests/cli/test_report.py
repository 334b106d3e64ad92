import csv
from pathlib import Path

import pytest

from moleflow_pl.cli.report import main
from moleflow_pl.errors import ConfigError, DataError
from tests.helpers.scores import runs_in


def test_runs_are_compared_in_the_order_given_and_the_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = runs_in(tmp_path)
    main(["--run", str(two), f"--run={one}", f"--output={tmp_path / 'out'}"])
    shown = capsys.readouterr().out.splitlines()
    for title in ("mean and standard deviation", "decisions about the test images", "thresholds"):
        assert [line for line in shown if title in line]
    written = [Path(line) for line in shown[-3:]]
    assert [path.name for path in written] == [
        "comparison.html",
        "comparison.tex",
        "comparison.csv",
    ]
    assert all(path.parent == tmp_path / "out" for path in written)
    with written[2].open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["task"] == "a")
    assert list(row)[-2:] == [str(two), str(one)]
    assert (row[str(one)], row[str(two)]) == ("1.0", "")  # `two` never learned `a`


def test_files_lie_in_a_folder_comparison_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--run", str(runs_in(tmp_path)[0])])
    assert (tmp_path / "comparison" / "comparison.html").is_file()


def test_without_a_run_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--run"):
        main([])
    with pytest.raises(DataError, match="no report/summary.json"):
        main(["--run", str(tmp_path / "nowhere")])
    assert list(tmp_path.iterdir()) == []
