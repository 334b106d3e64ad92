import re
from pathlib import Path

import pytest
import yaml

from moleflow_pl.cli.stored_arguments import stored_config
from moleflow_pl.errors import CheckpointError
from tests.helpers.checkpoints import bare_checkpoint

CONFIG = {
    "seed_everything": 3,
    "model": {"lora_rank": 4, "optimizer": "moleflow_pl.module.adamw", "image_score": "tail"},
    "data": {"tasks": ["a"]},
    "schedule": {"epochs_per_task": 5},
    "trainer": {"precision": "32-true", "default_root_dir": "/elsewhere", "logger": None},
    "ckpt_path": "old.ckpt",
}


def stored(folder: Path, config: object, verb: str = "fit") -> dict:
    content = bare_checkpoint(yaml.safe_dump(config))
    return yaml.safe_load(stored_config(folder / "last.ckpt", content, verb))


def test_a_fit_that_goes_on_takes_over_all_but_the_place(tmp_path: Path) -> None:
    assert stored(tmp_path, CONFIG) == {
        "seed_everything": 3,
        "model": CONFIG["model"],
        "data": CONFIG["data"],
        "schedule": CONFIG["schedule"],
        "trainer": {"precision": "32-true", "default_root_dir": str(tmp_path)},
    }


def test_other_commands_take_over_no_hardware(tmp_path: Path) -> None:
    taken = stored(tmp_path, CONFIG, "test")
    assert taken["trainer"] == {"default_root_dir": str(tmp_path)}
    assert "schedule" not in taken


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("trainer", "callbacks", [{"class_path": "some.Class"}]),
        ("trainer", "callbacks", "some.Class"),
        ("trainer", "logger", {"class_path": "some.Class", "init_args": {"save_dir": "/etc"}}),
        ("trainer", "profiler", "some.Class"),
        ("trainer", "plugins", ["some.Class"]),
        ("trainer", "strategy", {"class_path": "some.Class"}),
        ("model", "optimizer", {"class_path": "subprocess.Popen", "init_args": {"args": "x"}}),
        ("model", "optimizer", "os.system"),
        ("model", "grid", {"class_path": "some.Class"}),
        ("data", "tasks", [{"class_path": "some.Class"}]),
        ("data", "augmentation", {"class_path": "some.Class"}),
        ("data", "feature_store", "/elsewhere"),
    ],
)
def test_what_names_code_or_a_place_is_left_out_with_a_warning(
    part: str, key: str, value: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {part: {"kept": 1, key: value}}
    taken = stored(tmp_path, config)
    (warning,) = caplog.messages
    assert re.search(f"{part}.{key}.*may come from anyone", warning)
    assert key not in taken[part]
    assert taken[part]["kept"] == 1


def test_optimizer_of_torch_is_kept(tmp_path: Path) -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    assert stored(tmp_path, {"model": {"optimizer": optimizer}})["model"] == {
        "optimizer": optimizer,
    }


@pytest.mark.parametrize("config", ["text", [1], {"model": "file.yaml"}, {"trainer": [1]}])
def test_arguments_that_are_none_are_refused(config: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no arguments of a run"):
        stored(tmp_path, config)


def test_yaml_that_would_build_an_object_is_refused(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    text = f"model: !!python/object/apply:pathlib.Path.touch [{touched}]"
    with pytest.raises(CheckpointError, match="holds no arguments of a run"):
        stored_config(tmp_path / "last.ckpt", bare_checkpoint(text), "fit")
    assert not touched.exists()
