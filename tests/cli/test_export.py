import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.cli.export import main, make_parser

ROOT = Path(__file__).parents[2]


def test_the_file_lies_in_the_run_and_is_named_after_its_product(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(learned[0] / "last.ckpt", tmp_path)
    main([f"--ckpt_path={tmp_path / 'last.ckpt'}", "--product=01", "--format=torch"])
    assert (tmp_path / "export" / "01.pt2").is_file()
    assert capsys.readouterr().out.startswith(str(tmp_path / "export" / "01.pt2"))


def test_help_has_an_example_and_needs_no_torch() -> None:
    code = (
        "from moleflow_pl.cli.export import make_parser; import sys; make_parser(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    text = make_parser().format_help()
    assert "moleflow export --ckpt_path runs/demo/last.ckpt" in text
    assert len(text.splitlines()) <= 40
