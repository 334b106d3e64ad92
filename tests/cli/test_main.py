import subprocess
import sys
from importlib.metadata import version

import pytest

from moleflow_pl.cli import main as cli
from tests.helpers.commands import ROOT


def test_help_names_every_verb_and_imports_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from moleflow_pl.cli import main as cli; cli.main(['--help']);"
        "sys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    assert all(f"\n  {verb} " in shown.stdout for verb in cli.VERBS)
    assert len(shown.stdout.splitlines()) <= 40
    cli.main(["--version"])
    assert capsys.readouterr().out == f"moleflow {version('moleflow')}\n"


def test_unknown_verb_is_answered_with_the_verbs() -> None:
    with pytest.raises(SystemExit, match=r"no verb 'frob'; the verbs are fit, .*report"):
        cli.main(["frob"])
