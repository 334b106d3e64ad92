import json

import pytest
import yaml

from moleflow_pl.cli.yaml_names import load_yaml, quote_tasks

# YAML 1.1 reads every one of them as a number, a truth value, nothing, or a time
NAMES = ["01", "1.0", "2.10", "no", "null", "+1", "1_0", "0x1f", "12:30", "1e-4"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_below_tasks_stays_text_wherever_the_key_is(name: str) -> None:
    assert load_yaml(f"tasks: [{name}, [{name}]]") == {"tasks": [name, [name]]}
    assert load_yaml(f"data: {{tasks: [{name}]}}") == {"data": {"tasks": [name]}}
    assert load_yaml(f"- tasks: {name}") == [{"tasks": [name]}]


def test_other_values_are_those_of_yaml() -> None:
    text = "a: 1\nb: [no, null, 0.5]\nc: {d: '1'}\ntasks_of_mine: 01\n"
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yaml("") is None


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("-2E+3", -2e3), ("e-4", "e-4")])
def test_a_number_with_an_exponent_is_a_number_without_a_point_too(
    text: str, value: object
) -> None:
    assert load_yaml(text) == value


def test_yaml_that_would_build_an_object_is_refused() -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml("a: !!python/object/apply:os.getcwd []")


@pytest.mark.parametrize("flag", [["--data.tasks", "{}"], ["--data.tasks={}"]])
def test_names_on_the_command_line_are_quoted_in_either_spelling(flag: list[str]) -> None:
    text = f"[{', '.join(NAMES)}, [{NAMES[0]}]]"
    (value,) = quote_tasks([part.format(text) for part in flag])[-1:]
    assert json.loads(value.removeprefix("--data.tasks=")) == [*NAMES, [NAMES[0]]]


def test_what_is_no_list_is_left_for_the_parser_to_refuse() -> None:
    for text in ("[a", "{a: b}", ""):
        assert quote_tasks(["--data.tasks", text]) == ["--data.tasks", text]


def test_one_name_is_a_list_of_one() -> None:
    for name in ("washer", "01", "no"):
        assert quote_tasks([f"--data.tasks={name}"]) == [f'--data.tasks=["{name}"]']
        assert load_yaml(f"data: {{tasks: {name}}}") == {"data": {"tasks": [name]}}
    assert load_yaml("tasks:") == {"tasks": []}
