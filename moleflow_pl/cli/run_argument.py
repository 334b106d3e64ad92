"""Positional arguments, and `--ckpt_path` as a run folder or a checkpoint.

This runs before heavy imports, so that a command without a model fails at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.cli.arguments import option, replace_values
from moleflow_pl.cli.mistakes import UNKNOWN_WORDS, closest, explain
from moleflow_pl.errors import CheckpointError, ConfigError

CHECKPOINT = "--ckpt_path"
IMAGES = "--data.predict_path"
# verb: the options that its positional arguments stand for, in order
PLACES: dict[str, tuple[str, ...]] = {
    "fit": (),
    "test": (CHECKPOINT,),
    "validate": (CHECKPOINT,),
    "predict": (CHECKPOINT, IMAGES),
    "calibrate": (CHECKPOINT,),
    "export": (CHECKPOINT,),
    "serve": (CHECKPOINT,),
    "report": (),
}
# verb: its actions whose first word is a run; what else an action takes, its parser knows
ACTIONS: dict[str, tuple[str, ...]] = {
    "experts": ("list", "export", "import", "remove", "rename", "update", "rollback"),
    "review": ("apply", "preview"),
}
NAMES = {CHECKPOINT: "RUN", IMAGES: "IN"}
# the likely intention behind an extra argument
HINTS = {
    "fit": "; a preset or a file of options follows --config, and a list is quoted: '[a, b]'",
    "predict": "; a pattern is quoted: 'new/*.png'",
    "report": "; every run follows a --run of its own: --run RUN --run RUN",
}
# settings of the option in verbs with their own parser
SETTINGS: dict[str, Any] = {
    "type": Path,
    "required": True,
    "metavar": "RUN",
    "help": "the folder of a fit, or a checkpoint in it",
}
WITHOUT_VALUE = ("--print_config", "-h", "--help")


def with_options(args: Sequence[str]) -> list[str]:
    """Expand positional arguments to options, and a run folder to its last checkpoint.

    Example:
        >>> with_options(["predict", "none/last.ckpt", "new", "--print_config"])[2:]
        ['none/last.ckpt', '--data.predict_path', 'new', '--print_config']

    Raises:
        CheckpointError: there is no such model.
        ConfigError: a verb lacks a model, or has an extra argument.
    """
    verb, *rest = args
    if verb in PLACES:
        rest = with_named_places(verb, rest)
    elif rest and rest[0] in ACTIONS.get(verb, ()):
        rest = [rest[0], *with_run(rest[1:])]
    rest = replace_values(rest, CHECKPOINT, checkpoint_at)
    only_shown = set(WITHOUT_VALUE) & {word.partition("=")[0] for word in rest}
    if CHECKPOINT in PLACES.get(verb, ()) and not only_shown:
        require_model(verb, rest)
    return [verb, *rest]


def with_named_places(verb: str, words: Sequence[str]) -> list[str]:
    """Insert the options of a verb before its positional arguments.

    Raises:
        ConfigError: there is an extra argument, or an option is given twice.
    """
    places, result = list(PLACES[verb]), []
    usage = usage_of(verb)
    for i, word in enumerate(words):
        if not is_free(words, i):
            result.append(word)
            continue
        if not places:
            raise ConfigError(
                f"unexpected argument {word!r}: {usage} [options]{HINTS.get(verb, '')}"
            )
        place = places.pop(0)
        if option(words, place) is not None:
            raise ConfigError(f"{word!r} and {place} mean the same: leave one of them out")
        result += [place, word]
    return result


def is_free(words: Sequence[str], place: int) -> bool:
    """Whether a word is neither an option nor the value of one.

    Example:
        >>> [is_free(["--x", "1", "run", "--y=2"], i) for i in range(4)]
        [False, False, True, False]
    """
    before = words[place - 1] if place else ""
    valued = before.startswith("-") and "=" not in before and before not in WITHOUT_VALUE
    return not words[place].startswith("-") and not valued


def with_run(words: Sequence[str]) -> list[str]:
    """Name the run that an action's first word is, unless the option names it.

    Example:
        >>> with_run(["runs/demo", "solar_poly"])
        ['--ckpt_path', 'runs/demo', 'solar_poly']
    """
    first = next((i for i in range(len(words)) if is_free(words, i)), None)
    if first is None or option(words, CHECKPOINT) is not None:
        return list(words)
    return [*words[:first], CHECKPOINT, *words[first:]]


def usage_of(verb: str) -> str:
    """Return a verb with the names of its positional arguments.

    Example:
        >>> usage_of("predict")
        'moleflow predict RUN IN'
    """
    return " ".join(["moleflow", verb, *(NAMES[place] for place in PLACES[verb])])


def checkpoint_at(value: str) -> str:
    """Return the checkpoint that a value names: the last one of a run folder, or the file itself.

    Example:
        >>> checkpoint_at("runs/x/last.ckpt")
        'runs/x/last.ckpt'
    """
    path = Path(value).expanduser()
    # os.path: a name that is too long for the disk is no folder either
    return str(RunFolder(path).last) if os.path.isdir(path) else value


def require_model(verb: str, words: Sequence[str]) -> None:
    """Check that a verb has a model to work with.

    Raises:
        CheckpointError: the checkpoint is missing, and its run has no earlier one.
        ConfigError: no model is given, or its option is mistyped.
    """
    path = option(words, CHECKPOINT)
    if path is None:
        given = (word.partition("=")[0] for word in words if word.startswith("--"))
        mistyped = next((name for name in given if closest(name, [CHECKPOINT])), None)
        if mistyped is not None:
            raise ConfigError(explain(UNKNOWN_WORDS + mistyped, f"moleflow {verb}", [CHECKPOINT]))
        raise ConfigError(
            f"{verb} needs a trained model: {usage_of(verb)}, where RUN is the folder of a fit, "
            "such as runs/demo, or a .ckpt file in it"
        )
    file = Path(path).expanduser()
    # if only this file is lost, its reader suggests the one before
    if not os.path.exists(file) and not RunFolder.of(file).written_tasks:
        raise CheckpointError(
            f"no checkpoint at {path}: give the folder of a fit, such as runs/demo, or a .ckpt "
            "file in it"
        )
