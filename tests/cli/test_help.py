import inspect
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl._internal.presets import preset_names
from moleflow_pl.callbacks import EvaluationCallback, PredictionWriter, TaskSchedulerCallback
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.cli import experts, lightning, review
from moleflow_pl.cli import main as cli
from moleflow_pl.cli.help import GROUPS, TRAINER, VERBS, group_help, options, verb_help
from moleflow_pl.cli.yaml_names import load_yaml

ROOT = Path(__file__).parents[2]
SCREEN = (50, 100)  # lines and columns
CLASSES = {
    "model": MoLEFlow,
    "data": ContinualDataModule,
    "schedule": TaskSchedulerCallback,
    "evaluation": EvaluationCallback,
    "predictions": PredictionWriter,
}


def fits_a_screen(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) <= SCREEN[0] and max(map(len, lines)) <= SCREEN[1]


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_fits_a_screen_and_has_an_example(verb: str) -> None:
    text = verb_help(verb)
    assert fits_a_screen(text)
    example = "--config demo" if verb == "fit" else "runs/demo"
    assert f"\n  moleflow {verb} {example}" in text
    assert "model | data | schedule" in text


@pytest.mark.parametrize("group", [*GROUPS, "trainer"])
def test_help_of_a_group_fits_a_screen_and_has_an_example(group: str) -> None:
    text = group_help("fit", group)
    assert fits_a_screen(text)
    assert f"example:\n  moleflow fit … --{group}." in text


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_shows_every_argument_of_its_class(group: str) -> None:
    module, kind, _ = GROUPS[group]
    assert CLASSES[group].__name__ == kind
    shown = {name: (value, text) for name, value, text in options(module, kind)}
    assert list(shown) == list(inspect.signature(CLASSES[group]).parameters)
    assert all(text.endswith(".") and len(text) > 5 for _, text in shown.values())


def test_values_are_shown_as_they_are_typed() -> None:
    shown = {name: value for name, value, _ in options(*GROUPS["model"][:2])}
    assert shown["layers"] == "[4, 5, 6, 7]"
    assert (shown["grid"], shown["use_lora"], shown["router"]) == ("null", "true", "pooled")
    assert shown["backbone_weights"] == "pretrained"


@pytest.mark.parametrize("group", GROUPS)
def test_the_default_shown_is_the_one_that_counts(group: str) -> None:
    """Also of a constant that another module defines."""
    parameters = inspect.signature(CLASSES[group]).parameters
    for name, value, _ in options(*GROUPS[group][:2]):
        default = parameters[name].default
        if callable(default):
            assert value == default.__name__
        else:
            expected = list(default) if isinstance(default, tuple) else default
            assert load_yaml(value) == expected, name


def test_predict_shows_the_short_option_for_a_known_product() -> None:
    assert "\n  --product NAME" in verb_help("predict")
    assert "`--product` for short" in group_help("predict", "predictions")


ACTIONS = [["experts", action] for action in experts.ACTIONS]
ACTIONS += [["review", action] for action in review.ACTIONS]


@pytest.mark.parametrize("command", [*([verb] for verb in cli.VERBS), *ACTIONS], ids=" ".join)
def test_no_verb_shows_the_name_of_a_value_in_its_place(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(SystemExit):
        cli.main([*command, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: moleflow {' '.join(command)}")
    for name in ("MOLEFLOW_TOKEN", "NEW_NAME"):  # a variable of the environment, and a word
        text = text.replace(name, "")
    assert not re.search(r"[A-Z]+_[A-Z]+", text)


def test_fit_names_the_presets() -> None:
    assert "--config NAME|FILE" in verb_help("fit")
    shown = verb_help("fit").partition("Presets: ")[2].partition(".\n")[0]
    assert re.split(r",\s+", shown) == preset_names()


def test_the_defaults_of_the_trainer_are_those_of_the_command_or_lightnings() -> None:
    kind: Any = lambda *_, **settings: settings  # noqa: E731
    command: Any = lightning.build([], kind)
    parameters = inspect.signature(Trainer).parameters
    # what None means: the bars of the run, and the table that the command writes itself
    meaning = {"enable_progress_bar": True, "logger": RunFolder(Path("x")).curves.name}
    for name, (shown, _) in TRAINER.items():
        default = command["trainer_defaults"].get(name, parameters[name].default)
        assert load_yaml(shown) == (meaning.get(name) if default is None else default), name


def test_every_verb_of_lightning_has_its_help() -> None:
    assert {verb for verb, (module, _) in cli.VERBS.items() if module == cli.LIGHTNING} == set(
        VERBS
    )


def test_help_imports_no_torch_and_no_lightning() -> None:
    code = (
        "import sys; from moleflow_pl.cli import main as cli;"
        "cli.main(['fit', '--help', 'model']); cli.main(['test', '-h']);"
        "sys.exit(bool({'torch', 'lightning'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "--model.lora_rank 32" in shown.stdout
    assert "usage: moleflow test" in shown.stdout
