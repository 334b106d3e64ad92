"""Signals, closed pipes and limits that end a command before its work is done.

Each prints one line on standard error with the command that resumes, and sets a non-zero exit code:
128 + the signal's number after a signal, as in shells.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from moleflow_pl._internal.logs import is_first_process
from moleflow_pl._internal.printable import command_line
from moleflow_pl.cli.arguments import without
from moleflow_pl.errors import StoppedError

SIGPIPE = 13  # Windows has none
WORKER_ENDED = "killed by signal: Terminated"  # in torch's error
NAMES = {int(signal.SIGINT): "ctrl-C", int(signal.SIGTERM): "SIGTERM", SIGPIPE: "a closed pipe"}


class Terminated(SystemExit):
    """SIGTERM arrived while no Trainer handles it."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, so that half-written files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def raise_terminated(signum: int, frame: FrameType | None) -> None:
    """Raise, unless a Trainer has its own handler, which stops after the current batch."""
    if signal.getsignal(signum) is raise_terminated:
        raise Terminated


def signal_behind(error: BaseException) -> int | None:
    """The signal that caused an exception; None if none did.

    Lightning and rich turn some of them into a `SystemExit` of their own.
    """
    shown = error.__context__ if type(error) is SystemExit else error
    if isinstance(shown, KeyboardInterrupt):
        return int(signal.SIGINT)
    if isinstance(shown, BrokenPipeError):
        return SIGPIPE
    # Lightning's `SIGTERMException`, recognised by name: importing it takes seconds
    if isinstance(shown, Terminated) or type(shown).__name__ == "SIGTERMException":
        return int(signal.SIGTERM)
    # systemd and others also send it to the processes that load images
    told = f"{shown} {shown.__cause__}" if isinstance(shown, RuntimeError) else ""
    if WORKER_ENDED in told:
        return int(signal.SIGTERM)
    return None


def stopped_by(error: BaseException, status: str = "stopped") -> StoppedError | None:
    """The `StoppedError` for an exception caused by a signal; None for another.

    Args:
        error: What was raised.
        status: How far the command came.
    """
    signum = signal_behind(error)
    return None if signum is None else StoppedError(f"{status} ({NAMES[signum]})", signum)


def resuming_command(args: Sequence[str], error: StoppedError) -> str:
    """The command that resumes.

    Example:
        >>> resuming_command(["fit", "--x=a b"], StoppedError("", None, {"--ckpt_path": "c"}))
        "moleflow fit '--x=a b' --ckpt_path=c"
    """
    for name in error.changes:
        args = without(args, name)
    words = ["moleflow", *args, *(f"{k}={v}" for k, v in error.changes.items())]
    return command_line(words)


def exit_stopped(error: StoppedError, args: Sequence[str]) -> None:
    """Print in one line how far a command came and how to resume it, and exit.

    Args:
        error: What stopped it.
        args: All words of the command.

    Raises:
        SystemExit: always.
    """
    if is_first_process():
        with suppress(OSError):  # standard error may be closed too
            print(
                f"moleflow: {error.status}; resume with: {resuming_command(args, error)}",
                file=sys.stderr,
                flush=True,
            )
    if error.signum == SIGPIPE:
        silence_closed_pipes()
    sys.exit(error.exit_code)


def silence_closed_pipes() -> None:
    """Discard unflushed output, about which Python would complain at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
