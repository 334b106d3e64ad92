"""The verb `serve`, as far as its options go."""

import subprocess
import sys
from pathlib import Path

import pytest

from moleflow_pl.cli import serve as module
from moleflow_pl.cli.serve import OPTIONS, make_parser
from moleflow_pl.service.settings import Settings
from tests.helpers.commands import failure


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    monkeypatch.setattr(module, "PARTS", ("json", "no_such_part"))
    told = failure(tmp_path, "serve", tmp_path)
    assert told.startswith("moleflow: serve needs no_such_part: pip install 'moleflow[serve]'")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--prt=1"], "moleflow serve has no option --prt"),
        (["--port=x"], "invalid int value"),
        (["--host=0.0.0.0"], "MOLEFLOW_TOKEN"),
        (["--source=foler:/in"], "did you mean 'folder'"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, options: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOLEFLOW_TOKEN", raising=False)
    (tmp_path / "last.ckpt").write_bytes(b"")
    assert told in failure(tmp_path, "serve", tmp_path, *options)


def test_a_run_that_is_not_there_is_told() -> None:
    assert "no checkpoint at" in failure(Path(), "serve", "/no/such/run")


def test_every_option_is_one_of_the_settings_and_defaults_are_theirs() -> None:
    names = set(Settings.__dataclass_fields__)
    assert {target for target, _ in OPTIONS.values()} | {"model", "backbone_weights"} == names
    assert set(vars(make_parser().parse_args(["--ckpt_path=x"]))) == {"ckpt_path"}


def test_a_mistake_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    program = (
        "import sys\nfrom moleflow_pl.cli.main import main\n"
        f"try: main(['serve', {str(tmp_path)!r}, '--prt=1'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'fastapi', 'sqlalchemy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
