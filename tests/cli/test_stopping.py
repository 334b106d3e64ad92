import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from moleflow_pl.cli import main as cli
from moleflow_pl.cli.stopping import resuming_command, signal_behind, signals_raise, stopped_by
from moleflow_pl.errors import StoppedError

ROOT = Path(__file__).parents[2]


def interrupt() -> None:
    raise KeyboardInterrupt  # a test that runs in the background ignores the signal


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def close() -> None:
    raise BrokenPipeError


@pytest.mark.parametrize("verb", cli.VERBS)
@pytest.mark.parametrize(
    ("stop", "code", "name"),
    [(interrupt, 130, "ctrl-C"), (terminate, 143, "SIGTERM"), (close, 141, "a closed pipe")],
)
def test_every_verb_ends_in_one_line_with_the_command_that_goes_on(
    verb: str, stop: Callable[[], None], code: int, name: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(f"{cli.VERBS[verb][0]}.main", lambda args: stop())
    monkeypatch.setattr("moleflow_pl.cli.stopping.silence_closed_pipes", lambda: None)
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.touch()
    with pytest.raises(SystemExit) as error:
        cli.main([verb, f"--ckpt_path={checkpoint}", "--x=a b"])
    assert error.value.code == code
    again = f"moleflow {verb} --ckpt_path={checkpoint} '--x=a b'"
    assert capsys.readouterr().err == f"moleflow: stopped ({name}); resume with: {again}\n"


def test_signals_are_as_before_after_a_command() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals_raise():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_may_run_a_command() -> None:
    done = []

    def run() -> None:
        with signals_raise():
            done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done


def test_what_lightning_and_rich_make_of_a_signal_is_seen_through() -> None:
    for inner, signum in ((KeyboardInterrupt(), signal.SIGINT), (BrokenPipeError(), 13)):
        outer = SystemExit(1)
        outer.__context__ = inner
        assert signal_behind(outer) == signum
    worker = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    assert signal_behind(worker) == signal.SIGTERM
    outer = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    assert signal_behind(outer) is None
    outer.__cause__ = worker
    assert signal_behind(outer) == signal.SIGTERM
    assert stopped_by(RuntimeError("an error that was told")) is None
    assert stopped_by(SystemExit("an error that was told")) is None
    assert stopped_by(ValueError()) is None


def test_options_that_change_replace_those_of_the_command() -> None:
    error = StoppedError("", None, {"--a": "2", "--b": "x y"})
    command = resuming_command(["fit", "--a=1", "--c", "3"], error)
    assert command == "moleflow fit --c 3 --a=2 '--b=x y'"


def test_the_command_to_resume_is_safe_to_print_and_means_the_same_to_a_shell() -> None:
    name = os.fsdecode(b"i\x1b]0;PWN\x07'\xff")
    command = resuming_command(["predict", name, "a b"], StoppedError(""))
    assert command.isprintable()
    words = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {command}"]).split(b"\0")
    assert words[:4] == [b"moleflow", b"predict", os.fsencode(name), b"a b"]


def with_closed_pipe(program: list[str]) -> tuple[int, str]:
    """Exit code and errors of a program whose output nobody reads."""
    with subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    return process.returncode, errors


@pytest.mark.parametrize("what", ["print('x' * 10**5)", "print('x')", "Console().print('x')"])
def test_a_closed_pipe_ends_a_command_in_one_line(what: str) -> None:
    code = (
        "from rich.console import Console; import moleflow_pl.cli.report as report;"
        f"report.main = lambda args: {what};"
        "from moleflow_pl.cli.main import main; main(['report'])"
    )
    program = [sys.executable, "-c", code]
    assert with_closed_pipe(program) == (
        141,
        "moleflow: stopped (a closed pipe); resume with: moleflow report\n",
    )


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_a_closed_pipe_ends_the_help_in_one_line(word: str) -> None:
    program = [sys.executable, "-m", "moleflow_pl.cli.main", word]
    assert with_closed_pipe(program) == (
        141,
        f"moleflow: stopped (a closed pipe); resume with: moleflow {word}\n",
    )
