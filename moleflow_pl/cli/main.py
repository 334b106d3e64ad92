"""The command `moleflow`: looks up the verb and imports only that verb's module."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module

from moleflow_pl import __version__
from moleflow_pl._internal import logs, signing
from moleflow_pl._internal.allocator import keep_freed_memory
from moleflow_pl._internal.garbage import importing
from moleflow_pl._internal.openmp import wait_briefly
from moleflow_pl._internal.printable import printable, printable_lines
from moleflow_pl.cli.run_argument import with_options
from moleflow_pl.cli.stopping import exit_stopped, signals_raise, stopped_by
from moleflow_pl.errors import MoLEFlowError, StoppedError, is_out_of_memory

LIGHTNING = "moleflow_pl.cli.lightning"
# verb: (module whose `main(args)` runs it, what it does)
VERBS = {
    "fit": (LIGHTNING, "learn products, one after another"),
    "validate": (LIGHTNING, "NLL and routing on the calibration images"),
    "test": (LIGHTNING, "score the test images and write the report"),
    "predict": (LIGHTNING, "decide about the images of a file, folder or pattern"),
    "export": ("moleflow_pl.cli.export", "write a model as one file: ONNX or torch.export"),
    "serve": (
        "moleflow_pl.cli.serve",
        "inspect images from clients, folders and cameras, and record them",
    ),
    "calibrate": ("moleflow_pl.cli.calibrate", "show or change the thresholds, without training"),
    "experts": (
        "moleflow_pl.cli.experts",
        "list, export, import, remove, rename, update or roll back experts",
    ),
    "review": ("moleflow_pl.cli.review", "improve a model by reviews of its decisions"),
    "report": ("moleflow_pl.cli.report", "compare several runs"),
}
EVERYWHERE = {
    "--key-file FILE": "sign the models that are written with the key in a file",
    "--require-signature": "with --key-file: read only models that are signed with it",
}
HELP = """\
usage: moleflow VERB [options]

Learn to inspect one product after another from good images alone, forget nothing, and recognise
which product a new image shows.

verbs:
{verbs}

moleflow VERB --help shows a verb's options with examples.

options of every verb:
{everywhere}

examples:
  moleflow fit --config demo
  moleflow fit --data.root FOLDER --data.tasks '[bottle, cable]'
  moleflow test runs/demo
  moleflow predict runs/demo 'new/*.png'
  moleflow export runs/demo"""
# system errors that a user can fix
DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ELOOP,
    errno.ENAMETOOLONG,
)  # fmt: skip
ROOMY = 2**33  # bytes of address space that torch and its threads hardly ever need
NO_MEMORY = (
    "there is not enough memory: close other programs, or reduce data.batch_size or "
    "data.num_workers; files saved before are complete"
)


def help_text() -> str:
    """Return what `moleflow --help` prints.

    Example:
        >>> print(help_text().splitlines()[0])
        usage: moleflow VERB [options]
    """
    verbs = columns({verb: does for verb, (_, does) in VERBS.items()})
    return HELP.format(verbs=verbs, everywhere=columns(EVERYWHERE))


def columns(meanings: Mapping[str, str]) -> str:
    """Words and what they mean, in two columns."""
    width = max(map(len, meanings))
    return "\n".join(f"  {word:<{width}}  {does}" for word, does in meanings.items())


def main(args: Sequence[str] | None = None) -> None:
    """Run the command with `args`, by default those of the process.

    Raises:
        SystemExit: the verb is unknown, or failed with an error that the user can fix.
    """
    if args is None:
        use_utf8()
        keep_freed_memory()
        wait_briefly()
    escape_unencodable()
    args = list(sys.argv[1:] if args is None else args)
    verb = args[0] if args else "--help"
    if verb in ("-h", "--help", "help", "--version"):
        with exit_on_known_errors(args):  # such as a closed pipe
            print(f"moleflow {__version__}" if verb == "--version" else help_text())
    elif verb not in VERBS:
        close = "".join(f", did you mean {v}?" for v in get_close_matches(verb, VERBS, n=1))
        names = ", ".join(VERBS)
        sys.exit(f"moleflow: no verb {verb!r}{close or ';'} the verbs are {names}: moleflow --help")
    else:
        run(verb, args)


def use_utf8() -> None:
    """Restart the command in Python's UTF-8 mode if the locale has another encoding.

    Libraries use the encoding that the process started with, for files and for their names.
    """
    if os.name != "posix" or "utf8" in sys._xoptions or sys.getfilesystemencoding() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"  # for child processes
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def report_memory_limit() -> None:
    """Log a limit on the address space, where the system has one: C++ code ends without a word."""
    with suppress(ImportError):
        resource = import_module("resource")  # on POSIX alone
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY and limit < ROOMY:
            logging.getLogger(__name__).warning(
                "the address space is limited to %.1f GB (ulimit -v): if this command ends with "
                "std::bad_alloc, raise the limit to at least %.1f GB",
                limit / 1e9, ROOMY / 1e9,
            )  # fmt: skip


def escape_unencodable() -> None:
    """Escape characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(verb: str, args: Sequence[str]) -> None:
    """Run a verb.

    Args:
        verb: A key of `VERBS`.
        args: All words of the command line; LightningCLI reads the verb from them.
    """
    by_lightning = VERBS[verb][0] == LIGHTNING
    logs.configure()
    report_memory_limit()
    with exit_on_known_errors(args), signals_raise(), signing.chosen(args) as words:
        if by_lightning and {"-h", "--help"} & set(words):
            import_module("moleflow_pl.cli.help").main(words)
            return
        words = with_options(words)
        with importing():
            module = import_module(VERBS[verb][0])
        module.main(words if by_lightning else words[1:])


@contextmanager
def exit_on_known_errors(args: Sequence[str]) -> Iterator[None]:
    """Exit with one line, without a traceback, for an error that the user can fix.

    Args:
        args: All words of the command, for the line on how to resume.
    """
    try:
        with stops_as_errors():
            yield
    except StoppedError as error:
        exit_stopped(error, args)
    except MoLEFlowError as error:
        # an error in a data loader's process comes wrapped in that process's traceback
        message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
        sys.exit(printable_lines(f"moleflow: {message}"))
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        if is_out_of_memory(error):
            sys.exit(f"moleflow: {NO_MEMORY}")
        if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
            raise
        sys.exit(printable(f"moleflow: {error.filename or 'the disk'}: {error.strerror}"))


@contextmanager
def stops_as_errors() -> Iterator[None]:
    """Turn exceptions from a signal or a closed pipe into a `StoppedError`.

    Raises:
        StoppedError: a signal came, or the pipe was closed.
    """
    try:
        yield
        sys.stdout.flush()  # so that a closed pipe is noticed now, not at exit
    except (KeyboardInterrupt, SystemExit, BrokenPipeError, RuntimeError) as error:
        stopped = stopped_by(error)
        if stopped is None:
            raise
        raise stopped from error


if __name__ == "__main__":
    main()
