import csv
import json
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.cli.report import main


def test_runs_are_compared_in_the_files_that_it_names(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = learned[0], tmp_path / "out"
    main(["--run", str(run), "--run", str(run), "--output", str(output)])
    named = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(named) == sorted(output.iterdir())
    assert {path.suffix for path in named} == {".html", ".csv", ".tex"}
    summary = json.loads((run / "report" / "summary.json").read_text())
    average = summary["metrics"]["image_auroc"]["average"]
    with (output / "comparison.csv").open() as file:
        text = [cell for row in csv.reader(file) for cell in row]
    assert any(cell.startswith(f"{average:.3f}") or cell == str(average) for cell in text), text
