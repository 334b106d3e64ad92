import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console
from rich.live import Live

from moleflow_pl._internal.steps import Advance, no_bar, showing_steps, step


@pytest.mark.parametrize("terminal", [True, False])
def test_a_step_has_a_bar_of_its_own_where_nobody_shows_it_but_not_in_a_pipe(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with step("test of a", total=2) as advance:
        advance(2)
    assert ("test of a: 100%" in capsys.readouterr().err) == terminal


def test_a_step_has_no_bar_of_its_own_while_rich_draws(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = io.StringIO()
    live = Live(console=Console(file=screen, force_terminal=True))
    with live, step("test of a", total=2) as advance:
        advance(2)
    assert "test of a" not in screen.getvalue() + capsys.readouterr().err


def test_a_step_is_shown_only_by_the_registered_display(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[object] = []

    @contextmanager
    def show(title: str, kind: str, total: int, unit: str) -> Iterator[Advance]:
        seen.append((title, kind, total, unit))
        yield seen.append

    with showing_steps(show), step("test of a", "test", 3) as advance:
        advance(2)
    assert seen == [("test of a", "test", 3, "image"), 2]
    with showing_steps(no_bar), step("b") as advance:
        advance(1)
    assert capsys.readouterr().err == ""
    with step("c"):
        pass
    assert len(seen) == 2
