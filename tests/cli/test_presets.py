import json
from pathlib import Path

import pytest

from moleflow_pl._internal.presets import preset_names, preset_path
from moleflow_pl.cli.presets import resolve
from moleflow_pl.errors import ConfigError


def test_names_become_paths_in_either_spelling_and_several_times() -> None:
    given = ["fit", "--config", "demo", "--config=seed", "--data.root", "demo"]
    demo, seed = str(preset_path("demo")), str(preset_path("seed"))
    assert resolve(given) == ["fit", "--config", demo, f"--config={seed}", "--data.root", "demo"]


def test_a_file_of_that_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("seed_everything: 1")
    assert resolve(["fit", "--config=demo"]) == ["fit", "--config=demo"]
    (tmp_path / "demo").unlink()
    (tmp_path / "demo").mkdir()  # a folder cannot be read
    assert resolve(["fit", "--config=demo"]) == ["fit", f"--config={preset_path('demo')}"]


def test_a_file_of_names_beyond_ascii_is_read_as_utf8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffdata: {tasks: [Schräube, ネジ]}".encode())
    assert resolve(["fit", f"--config={path}"])[1] == "--config=data: {tasks: [Schräube, ネジ]}"
    path.write_bytes("data: {tasks: [Schräube]}".encode("cp1252"))
    with pytest.raises(ConfigError, match="a.yaml is not UTF-8"):
        resolve(["fit", f"--config={path}"])


@pytest.mark.parametrize("text", ["{seed_everything: 1}", "seed_everything: 1\nmodel: {}\n"])
def test_options_as_yaml_text_are_passed_on(text: str) -> None:
    assert resolve(["fit", "--config", text]) == ["fit", "--config", text]


@pytest.mark.parametrize("value", [3, True, ["\x1b[2J"]])
@pytest.mark.parametrize("group", ["model", "data", "schedule", "trainer"])
def test_a_single_value_in_the_place_of_a_group_is_refused(
    group: str, value: object, tmp_path: Path
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({group: value}))
    for given in (str(path), path.read_text()):
        with pytest.raises(ConfigError, match=f"{group} must be a group of options, got") as error:
            resolve(["fit", "--config", given])
        assert "\x1b" not in str(error.value)
    path.write_text(f"{group}:\n")
    assert resolve(["fit", f"--config={path}"]) == ["fit", f"--config={path}"]


@pytest.mark.parametrize(
    ("name", "close"),
    [("dmeo", "demo"), ("mvtec_3x4", "mvtec_3x5"), ("configs/demo.yaml", "demo"), ("vísa", "visa")],
)
def test_an_unknown_name_is_answered_with_the_presets_and_the_closest(
    name: str, close: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        resolve(["fit", "--config", name])
    assert f"--config {name}: there is no such file and no such preset" in str(error.value)
    assert f"Did you mean {close}?" in str(error.value)
    assert all(preset in str(error.value) for preset in preset_names())


def test_a_name_like_no_other_gets_the_presets_alone() -> None:
    with pytest.raises(ConfigError, match=r"preset\. The presets are demo, .*visa"):
        resolve(["fit", "--config", "qqq"])
