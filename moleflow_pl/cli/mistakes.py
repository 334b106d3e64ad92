"""Usage errors in a few lines: what is wrong, what was probably meant, where all options are.

argparse and jsonargparse pass an error to their `error` method as text alone, so patterns find the
option and the value in it. A message that no pattern fits is shown as it is. `.ci/run` tests the
patterns with the oldest and the newest jsonargparse that `setup.cfg` allows.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from moleflow_pl.errors import ConfigError

UNKNOWN_WORDS = "unrecognized arguments: "
UNKNOWN_KEY = re.compile(r"does not accept (?:option|nested key) '(.+?)'")
REQUIRED = "the following arguments are required: "
CHOICE = re.compile(r"invalid choice: '(.+?)' \(choose from (.+)\)")
OPTION = re.compile(r"(?<![\w-])--[\w.-]+")
# a class without an argument that it needs
LACKING = re.compile(
    r"Problem with given class_path '([^']+)':\s+the following arguments are required: (.+)"
)
CLOSE = 0.7  # least similarity of a suggested option
LONGEST = 300  # characters of a library's message
# Python types, as users write their values
TYPES = {"NoneType": "null", "bool": "true or false", "Sequence": "list", "str": "text"}


class Mistake(Exception):  # noqa: N818 - not a ValueError, which parsers catch
    """The message of a parser about a wrong command line."""


class VerbParser(argparse.ArgumentParser):
    """The parser of a verb without a Trainer: options in full, usage errors in a few lines.

    Args:
        takes_others: Whether options that it does not know are passed on to another parser.
        settings: Arguments of `argparse.ArgumentParser`.

    Attributes:
        options: The long forms of its options.
    """

    def __init__(self, *, takes_others: bool = False, **settings: Any) -> None:
        self.options: list[str] = []
        self.takes_others = takes_others
        self._words: Sequence[str] = ()
        super().__init__(**{"allow_abbrev": False, **settings})

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Add an argument, and note the names of an option."""
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments; those that are left are a mistake, unless it takes others.

        The parser of an action reports them itself: it knows the action's options.
        """
        self._words = sys.argv[1:] if args is None else args
        parsed, others = super().parse_known_args(self._words, namespace)
        if others and not self.takes_others:
            self.error(UNKNOWN_WORDS + " ".join(others))
        return parsed, others

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError with a short explanation.

        A missing option may be one that is mistyped; then this is the mistake.

        Raises:
            ConfigError: always.
        """
        mistyped = self._mistyped() if message.startswith(REQUIRED) else None
        text = message if mistyped is None else UNKNOWN_WORDS + mistyped
        raise ConfigError(explain(text, self.prog, self.options))

    def _mistyped(self) -> str | None:
        """The first option given that does not exist, or that seems to be one of these."""
        given = [match[0] for word in self._words if (match := OPTION.match(word))]
        unknown = [name for name in given if name not in self.options]
        known = [] if self.takes_others else unknown
        return next((x for x in unknown if x in known or closest(x, self.options)), None)


def options_of(usage: str) -> list[str]:
    """Return the options in a usage text.

    Example:
        >>> options_of("usage: moleflow x [-h] --run RUN [--data.root ROOT]")
        ['--run', '--data.root']
    """
    return list(dict.fromkeys(OPTION.findall(usage)))


def explain(message: str, command: str, known: Iterable[str], groups: str = "") -> str:
    """Explain a parser's message, with a suggestion and where all options are.

    Args:
        message: Message of argparse or jsonargparse.
        command: The command up to its verb.
        known: All options.
        groups: Groups of options that `--help` accepts.
    """
    unknown = unknown_option(message)
    if unknown is None:
        close, lines = meant_choice(message), [wrong_value(message)]
    else:
        close, lines = closest(unknown, list(known)), [f"{command} has no option {unknown}"]
    lines += [f"did you mean {close}?"] if close else []
    return "\n".join([*lines, f"all options: {command} --help{groups}"])


def unknown_option(message: str) -> str | None:
    """Return the unknown option that a parser's message names first; None for another message.

    Example:
        >>> unknown_option("unrecognized arguments: --modle.rank=3 --x"), unknown_option("else")
        ('--modle.rank', None)
        >>> unknown_option("Unrecognized arguments: x --y=3")
        '--y'
    """
    if (key := UNKNOWN_KEY.search(message)) is not None:
        return f"--{key[1]}"
    match = re.search(rf"(?i)\b{UNKNOWN_WORDS}(.*)", message)  # capitalised in older jsonargparse
    words = [] if match is None else match[1].split()
    return next((word.partition("=")[0] for word in words if word.startswith("-")), None)


def closest(unknown: str, known: list[str]) -> str | None:
    """Return the most similar option, also if its group was left out; None without one.

    Example:
        >>> known = ["--data.root", "--model.lora_rank", "--schedule.epochs_per_task"]
        >>> [closest(name, known) for name in ("--lora_rank", "--epochs", "--dta.root", "--qq")]
        ['--model.lora_rank', '--schedule.epochs_per_task', '--data.root', None]
    """
    last = unknown.lstrip("-").rpartition(".")[2]
    own = {name: name.lstrip("-").rpartition(".")[2] for name in known}
    group = unknown.rpartition(".")[0]
    alike = get_close_matches(unknown, known, n=1, cutoff=CLOSE)
    same = [name for name in known if own[name] == last]
    begun = [name for name in known if last and own[name].startswith(f"{last}_")]
    inside = [name for name in begun if name.rpartition(".")[0] == group]
    return next(iter([*same, *inside, *alike, *begun]), None)


def meant_choice(message: str) -> str | None:
    """Return the choice that a wrong value resembles; None without one.

    Example:
        >>> meant_choice("argument ACTION: invalid choice: 'lst' (choose from 'list', 'remove')")
        'list'
    """
    match = CHOICE.search(message)
    if match is None:
        return None
    choices = [choice.strip("' ") for choice in match[2].split(",")]  # some Pythons quote
    return next(iter(get_close_matches(match[1], choices, n=1)), None)


def wrong_value(message: str) -> str:
    r"""Return in one line the option, its wrong value, and the values that it takes.

    Example:
        >>> wrong_value('Parser key "a.b":\n  Expected a <class \'int\'>. Got value: x')
        '--a.b x: it takes int'
    """
    key = re.search(r'Parser key "([^"]+)"', message)
    lacking = LACKING.search(message)
    if key is not None and lacking is not None:
        name, lacks = lacking[1].rpartition(".")[2], lacking[2].strip()
        return f"--{key[1]}: {name} needs {lacks}, such as --{key[1]}.{lacks.split(', ')[0]} VALUE"
    given = re.search(r"(?:Got|Given) value: (.*)", message)
    expected = re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", message, re.MULTILINE)
    if key is None or given is None or not expected:
        text = " ".join(re.sub(r'Parser key "([^"]+)"', r"--\1", message).split())
        return textwrap.shorten(text.removeprefix("argument "), LONGEST, placeholder=" …")
    kinds = dict.fromkeys(map(as_typed, expected))
    return f"--{key[1]} {given[1]}: it takes {' or '.join(kinds)}"


def as_typed(kind: str) -> str:
    """Return a Python type as users write its values.

    Example:
        >>> as_typed("<class 'NoneType'>"), as_typed("typing.Literal['npy', 'tiff']")
        ('null', 'npy, tiff')
    """
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", kind)
    if literal is not None:
        return literal[1].replace("'", "")
    name = re.sub(r"<class '(?:.*\.)?(\w+)'>", r"\1", kind)
    return TYPES.get(name, name)
