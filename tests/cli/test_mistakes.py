import argparse
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from moleflow_pl.cli import experts, review
from moleflow_pl.cli import main as cli
from moleflow_pl.cli.mistakes import VerbParser, closest, explain, wrong_value
from moleflow_pl.cli.moved_weights import OPTION
from moleflow_pl.cli.run_argument import CHECKPOINT
from moleflow_pl.errors import ConfigError

KNOWN = [
    "--config", "--ckpt_path", "--data.root", "--data.tasks", "--model.lora_rank",
    "--schedule.epochs_per_task", "--schedule.warmup_epochs", "--trainer.default_root_dir",
]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--modl.lora_rank", "--model.lora_rank"),
        ("--model.lora_rnk", "--model.lora_rank"),
        ("--lora_rank", "--model.lora_rank"),  # of a group that was left out
        ("--schedule.epochs", "--schedule.epochs_per_task"),  # the start of a name
        ("--epochs", "--schedule.epochs_per_task"),
        ("--tasks", "--data.tasks"),
        ("--ckpt-path", "--ckpt_path"),
        ("--conf", "--config"),
        ("--nothing.like_it", None),
        ("-", None),
    ],
)
def test_the_option_that_was_meant_is_found(typed: str, meant: str | None) -> None:
    assert closest(typed, KNOWN) == meant


@pytest.mark.parametrize(
    ("message", "option"),
    [
        ("unrecognized arguments: --modl.lora_rank=3 --x", "--modl.lora_rank"),
        ("unrecognized arguments: 3 --modl.lora_rank", "--modl.lora_rank"),
        ("Subcommand 'fit' does not accept option 'modl.lora_rank'", "--modl.lora_rank"),
    ],
)
def test_a_mistyped_option_gets_three_lines(message: str, option: str) -> None:
    assert explain(message, "moleflow fit", KNOWN, " model | data").splitlines() == [
        f"moleflow fit has no option {option}",
        "did you mean --model.lora_rank?",
        "all options: moleflow fit --help model | data",
    ]


UNION = """Parser key "data.size":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, list[int], <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'list'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: big
"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (UNION, "--data.size big: it takes int or list or null"),
        (
            "Parser key \"data.on_error\":\n  Expected a typing.Literal['stop', 'skip']. "
            "Got value: x",
            "--data.on_error x: it takes stop, skip",
        ),
        ("argument --data.root: expected one argument", "--data.root: expected one argument"),
        ('Parser key "a":\n  - what\n  - else', "--a: - what - else"),
        ("word " * 100, None),
    ],
)
def test_a_wrong_value_gets_one_line(message: str, line: str | None) -> None:
    said = wrong_value(message)
    assert "\n" not in said
    assert len(said) <= 300
    assert line in (said, None)


def test_a_verb_takes_no_option_by_the_start_of_its_name() -> None:
    parser = VerbParser(prog="moleflow x", description="It does.")
    parser.add_argument("--product", metavar="NAME")
    assert isinstance(parser, argparse.ArgumentParser)
    assert parser.options == ["--help", "--product"]
    with pytest.raises(ConfigError, match="no option --prod\ndid you mean --product"):
        parser.parse_args(["--prod=a"])


OWN_PARSER = [verb for verb, (module, _) in cli.VERBS.items() if module != cli.LIGHTNING]


def parser_of(verb: str) -> Any:
    return import_module(cli.VERBS[verb][0]).make_parser()


def commands() -> Iterator[tuple[list[str], str]]:
    """Every verb and action with a parser of its own, with each of its options."""
    for verb in OWN_PARSER:
        if verb not in ("experts", "review"):
            yield from (([verb], option) for option in parser_of(verb).options[1:])
    for action, (_, _, own) in experts.ACTIONS.items():
        moved = [] if action == "update" else [OPTION]
        yield from ((["experts", action], option) for option in (CHECKPOINT, *own, *moved))
    for action, (_, options) in review.ACTIONS.items():
        moved = [OPTION] if CHECKPOINT in options else []
        yield from ((["review", action], option) for option in (*options, *moved))


@pytest.mark.parametrize(("command", "option"), [*commands()])
def test_every_mistyped_option_of_every_verb_gets_three_lines(
    command: list[str], option: str
) -> None:
    """Also where a required option is missing, as the one that was meant may be."""
    verb, *action = command
    mistyped = option[:-1]
    for words in ([mistyped, "x"], [f"{mistyped}=x"]):
        with pytest.raises(ConfigError) as error:
            parser_of(verb).parse_args([*action, *words])
        assert str(error.value).splitlines() == [
            f"moleflow {' '.join(command)} has no option {mistyped}",
            f"did you mean {option}?",
            f"all options: moleflow {' '.join(command)} --help",
        ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("calibrate RUN --false-alarm-rat 0.05", "did you mean --false-alarm-rate?"),
        ("export RUN --formt torch", "did you mean --format?"),
        ("export RUN --format onxn", "did you mean onnx?"),
        ("experts rollback RUN a --versoin 1", "did you mean --version?"),
        ("experts lst RUN", "did you mean list?"),
        ("review previw RUN", "did you mean preview?"),
        ("review preview RUN --reviews r.csv --pst x", "did you mean --past?"),
        ("report --rnu RUN", "did you mean --run?"),
    ],
)
def test_a_command_line_with_a_mistake_suggests_what_was_meant(
    words: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(SystemExit) as error:
        cli.main([str(tmp_path) if word == "RUN" else word for word in words.split()])
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[1] == said


def test_a_missing_option_is_named_where_nothing_is_mistyped() -> None:
    for words in ([], ["--output", "x"]):
        with pytest.raises(ConfigError, match="required: --run\nall options"):
            parser_of("report").parse_args(words)
    with pytest.raises(ConfigError, match="required: NAME, --ckpt_path"):
        parser_of("experts").parse_known_args(["update", "--schedule.epochs_per_task=3"])
