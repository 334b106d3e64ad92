import logging
import pty
import subprocess
import sys
from collections.abc import Iterator
from os import close, read
from pathlib import Path

import pytest

from moleflow_pl._internal import logs

ROOT = Path(__file__).parents[2]
LONG = "saved /a/[b]/" + "c" * 30
SAY = (
    "import logging; from moleflow_pl._internal import logs; logs.configure();"
    f"logging.getLogger('moleflow_pl.x').info({LONG!r})"
)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Alone, and with the logger put back afterwards."""
    for name in logs.RANKS:
        monkeypatch.delenv(name, raising=False)
    logger = logging.getLogger(logs.NAME)
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_messages_go_to_the_current_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure()
    logs.configure()
    logger = logging.getLogger("moleflow_pl.somewhere")
    logger.info("[red]one[/red] %s", 1)
    logger.warning("two")
    logger.debug("three")
    assert capsys.readouterr() == ("[red]one[/red] 1\ntwo\n", "")


def test_control_characters_of_a_name_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure()
    logging.getLogger("moleflow_pl.somewhere").info("one\n\x1b[2J\x07two\r")
    assert capsys.readouterr().out == "one\n\\x1b[2J\\x07two\\r\n"


@pytest.mark.parametrize("variable", logs.RANKS)
def test_only_the_first_of_several_processes_logs(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()  # before the process learns its rank, as under Lightning's launcher
    logger = logging.getLogger("moleflow_pl.somewhere")
    for rank in ("0", "1", "11"):
        monkeypatch.setenv(variable, rank)
        logger.info(f"rank {rank}")
    assert capsys.readouterr().out == "rank 0\n"


def test_a_program_sees_warnings_alone_unless_it_asks_for_more() -> None:
    code = "import logging, moleflow_pl{}; log = logging.getLogger('moleflow_pl.x'); "
    code += "log.info('told'); log.warning('warned')"
    for asks, seen in (("", ["warned"]), ("; logging.basicConfig(level=20)", ["told", "warned"])):
        command = [sys.executable, "-c", code.format(asks)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert result.stdout == ""
        assert [line.split(":")[-1] for line in result.stderr.splitlines()] == seen


def test_a_pipe_gets_plain_lines_and_loads_no_rich() -> None:
    code = f"{SAY}; import sys; sys.exit('rich' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == f"{LONG}\n"


TABLE = (
    "import logging; from moleflow_pl._internal import console, logs; logs.configure();"
    "table = console.NamesTable('name', title='products'); table.add_row('[b]x');"
)
LOG_TABLE = f"{TABLE} console.log_table(logging.getLogger('moleflow_pl.x'), table)"
PRINT_TABLE = f"{TABLE} console.print_table(table)"


def on_a_terminal(program: str, kind: str) -> str:
    """What a program writes to a terminal of a kind."""
    terminal, end = pty.openpty()
    env = {"TERM": kind, "COLUMNS": "200", "PATH": ""}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=end, env=env, check=True)
    shown = read(terminal, 10_000).decode()
    close(end)
    close(terminal)
    return shown


@pytest.mark.parametrize("kind", ["dumb", "xterm-256color"])
def test_a_terminal_gets_a_logged_table_as_rich_draws_it(kind: str) -> None:
    shown = on_a_terminal(LOG_TABLE, kind)
    assert shown == on_a_terminal(PRINT_TABLE, kind)
    assert "[b]x" in shown
    assert ("\x1b[" in shown) == (kind != "dumb")


def test_a_pipe_gets_a_logged_table_as_a_printed_one() -> None:
    logged, printed = (
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for program in (LOG_TABLE, PRINT_TABLE)
    )
    assert logged.stdout == printed.stdout
    assert "[b]x" in logged.stdout


def test_a_terminal_gets_the_message_without_time_level_or_place() -> None:
    assert on_a_terminal(SAY, "dumb").strip() == LONG
