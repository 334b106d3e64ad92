import argparse

import pytest

from moleflow_pl.cli.mistakes import VerbParser, closest, explain, options_of, wrong_value
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
    assert options_of(parser.format_usage()) == ["--product"]
    with pytest.raises(ConfigError, match="no option --prod\ndid you mean --product"):
        parser.parse_args(["--prod=a"])
