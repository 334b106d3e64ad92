import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.cli.export import main, make_parser
from moleflow_pl.errors import OutputError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        ([], "run/export/moleflow.onnx"),
        (["--format=torch"], "run/export/moleflow.pt2"),
        (["--product=01", "--format=torch"], "run/export/01.pt2"),
        (["--product=01", "--output=x.onnx"], "x.onnx"),
    ],
)
def test_the_command_names_the_file_after_the_product_and_the_format(
    flags: list[str], output: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: list[tuple] = []

    def record(*args: object) -> str:
        asked.append(args)
        return "what was written"

    monkeypatch.setattr("moleflow_pl.export.pipeline.export_checkpoint", record)
    main(["--ckpt_path=run/tasks/00-01.ckpt", *flags, "--tolerance=0.01", "--images=new"])
    product = "01" if "--product=01" in flags else None
    kind = "torch" if "--format=torch" in flags else "onnx"
    checkpoint = Path("run/tasks/00-01.ckpt")
    assert asked == [(checkpoint, Path(output), kind, product, "new", 0.01)]
    assert capsys.readouterr().out == "what was written\n"


@pytest.mark.slow
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
    assert "moleflow export runs/demo" in text
    assert len(text.splitlines()) <= 40


@pytest.mark.parametrize("name", ["pipe", "link", "folder", "loop", "a" * 300])
def test_output_that_can_be_no_file_is_refused_before_the_model_is_read(
    name: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="cannot write "):
        main([f"--ckpt_path={tmp_path / 'missing.ckpt'}", f"--output={tmp_path / name}"])
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "pipe").is_fifo()
