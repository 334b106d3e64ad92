import pytest
import yaml

from moleflow_pl._internal.plain_yaml import DEEPEST, LONGEST, MOST_WRITTEN, TextLoader, load_yaml
from moleflow_pl.errors import ConfigError

DOUBLING = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 9)]
)
MERGED = "\n".join(
    ["a0: &a0 {x: 1}"]
    + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 8)}]}}" for i in range(1, 9)]
)
CHAINED = "\n".join(["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 2 * DEEPEST)])
HOSTILE = {
    "doubling anchors": (DOUBLING, "aliases expand to more than"),
    "merged anchors": (MERGED, "aliases expand to more than"),
    "one long text again and again": (
        f"[&a {'x' * 2**16}, {', '.join(['*a'] * (MOST_WRITTEN // 2**16))}]",
        "aliases expand to more than",
    ),
    "chained anchors": (CHAINED, "nested deeper than 64"),
    "brackets": ("[" * 20_000, "nested deeper than 64"),
    "braces": ("{a: " * 20_000, "nested deeper than 64"),
    "dashes": ("- " * 20_000, "nested deeper than 64"),
    "an anchor that holds itself": ("a: &a [*a]", "an anchor that contains itself"),
    "a mapping that holds itself": ("&a {b: [*a]}", "an anchor that contains itself"),
    "length": (f"a: {'x' * LONGEST}", "characters: at most 524288 are"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_yaml_that_expands_too_far_is_refused_in_one_sentence(name: str) -> None:
    text, reason = HOSTILE[name]
    with pytest.raises(ConfigError, match=reason) as error:
        load_yaml(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 100


def test_anchors_of_ordinary_use_are_read() -> None:
    text = "a: &a {x: 1, y: [2]}\nb: {<<: *a, x: 3}\nc: [*a, *a]"
    assert load_yaml(text) == yaml.safe_load(text)
    deep = "[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1)
    assert load_yaml(deep) == yaml.safe_load(deep)
    assert load_yaml("") is None


def test_scalars_can_be_read_as_text() -> None:
    assert yaml.load("[01, no, {a: 1.0}]", Loader=TextLoader) == ["01", "no", {"a": "1.0"}]
    with pytest.raises(ConfigError, match="nested deeper than 64"):
        yaml.load("[" * 200, Loader=TextLoader)


def test_a_class_is_not_built() -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(
    "value", ["9" * 5000, "0x" + "f" * 5000, "-" + "9" * 101, "1." + "9" * 101, "0b_"]
)
def test_a_number_that_python_does_not_take_is_an_error_of_one_sentence(value: str) -> None:
    with pytest.raises(
        ConfigError, match=r"YAML with .*(at most 100 are|which is no int)"
    ) as error:
        load_yaml(f"seed_everything: {value}")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("value", ["2026-13-45", "!!int x", "!!float x"])
def test_a_value_that_is_not_what_it_looks_like_is_an_error_of_one_sentence(value: str) -> None:
    with pytest.raises(ConfigError, match="YAML with the value '.*', which is no .*: correct it"):
        load_yaml(f"a: {value}")
