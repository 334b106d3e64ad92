import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import moleflow_pl
from moleflow_pl.cli import main as cli
from moleflow_pl.errors import DataError

ROOT = Path(__file__).parents[2]
TOY = '''
"""A verb that somebody else's package brings."""
import logging
def main(args):
    logging.getLogger("moleflow_pl.toy").info(f"toy got {args}")
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module outside the package that can run a verb."""
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody" / "toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebody", raising=False)
    monkeypatch.delitem(sys.modules, "somebody.toy", raising=False)
    return "somebody.toy"


def let_fail(toy: str, raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the verb `toy` raise an error."""

    def fail(args: list[str]) -> None:
        raise raised

    monkeypatch.setitem(cli.VERBS, "toy", (toy, ""))
    monkeypatch.setattr(f"{toy}.main", fail)


def test_a_verb_can_be_added_from_outside(
    toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.VERBS, "toy", (toy, "shows what it got"))
    cli.main(["toy", "--x", "1"])
    assert capsys.readouterr().out == "toy got ['--x', '1']\n"
    cli.main(["--help"])
    assert re.search(r"\n  toy +shows what it got\n", capsys.readouterr().out)


def test_every_verb_has_a_module_with_main() -> None:
    for module, _ in cli.VERBS.values():
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert "\ndef main(args: Sequence[str]) -> None:\n" in path.read_text(), module


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_lack_of_memory_ends_in_one_line(
    raised: Exception, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_fail(toy, raised, monkeypatch)
    with pytest.raises(SystemExit, match="^moleflow: there is not enough memory: [^\\n]*$"):
        cli.main(["toy"])


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
@pytest.mark.parametrize("limit", [2**30, None])
def test_a_limit_on_the_address_space_is_named_before_c_code_aborts_by_it(
    limit: int | None,
) -> None:
    bounds = "" if limit is None else f"resource.setrlimit(resource.RLIMIT_AS, ({limit},) * 2)"
    code = f"""
import resource
from moleflow_pl._internal import logs
from moleflow_pl.cli.main import report_memory_limit
logs.configure()
{bounds}
report_memory_limit()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("limited to 1.1 GB (ulimit -v)" in done.stdout) == (limit is not None)
    assert done.stderr == ""


@pytest.mark.parametrize("raised", [DataError("no image"), OSError(errno.ENOSPC, "full", "x.csv")])
def test_an_error_that_the_user_can_fix_ends_in_one_line(
    raised: Exception, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_fail(toy, raised, monkeypatch)
    with pytest.raises(SystemExit, match="^moleflow: (no image|x.csv: full)$"):
        cli.main(["toy"])


def test_an_error_shows_no_escape_code(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    let_fail(toy, DataError("no image \x1b[31m.png\nnor another"), monkeypatch)
    with pytest.raises(SystemExit) as error:
        cli.main(["toy"])
    assert error.value.code == "moleflow: no image \\x1b[31m.png\nnor another"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_name_ends_a_command_in_any_encoding(
    encoding: str, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding=encoding))
    monkeypatch.setitem(cli.VERBS, "toy", (toy, ""))
    cli.main(["toy", "ネジ", "été", "\udcff"])
    sys.stdout.flush()
    assert b"toy got" in buffer.getvalue()


def test_a_command_starts_again_in_utf8_mode_where_the_locale_lacks_letters() -> None:
    locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run(
        [sys.executable, "-m", "moleflow_pl.cli.main", os.fsencode("nö")],
        cwd=ROOT, env=locale, capture_output=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "no verb 'nö'" in result.stderr.decode()


def test_other_errors_keep_their_traceback(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: list[str]) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setitem(cli.VERBS, "toy", (toy, ""))
    monkeypatch.setattr(f"{toy}.main", fail)
    with pytest.raises(OSError, match="broken disk"):
        cli.main(["toy"])


def test_all_places_that_name_the_version_agree(capsys: pytest.CaptureFixture[str]) -> None:
    version = moleflow_pl.__version__
    cli.main(["--version"])
    assert capsys.readouterr().out == f"moleflow {version}\n"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == f"{version}, {citation['date-released']}"
    assert citation["version"] == version
    assert "\nversion = attr: moleflow_pl.__version__\n" in (ROOT / "setup.cfg").read_text()


def test_the_command_imports_nothing_heavy_before_it_knows_the_verb() -> None:
    code = (
        "import sys, moleflow_pl.cli.main;"
        "sys.exit(bool({'torch', 'lightning', 'numpy', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
