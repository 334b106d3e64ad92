import re
from dataclasses import asdict
from inspect import signature
from pathlib import Path

import pytest
import yaml

from moleflow_pl import ContinualDataModule
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.cli.stored_arguments import of_known_products, stored_config
from moleflow_pl.errors import CheckpointError
from moleflow_pl.tasks.schedule import Task
from tests.helpers.checkpoints import bare_checkpoint

CONFIG = {
    "seed_everything": 3,
    "model": {"lora_rank": 4, "optimizer": "moleflow_pl.module.adamw", "image_score": "tail"},
    "data": {"tasks": ["a"], "val_fraction": 0.2, "lots": "_", "batch_size": 4},
    "schedule": {"epochs_per_task": 5},
    "trainer": {"precision": "32-true", "default_root_dir": "/elsewhere", "logger": None},
    "evaluation": {"map_size": 64},
    "ckpt_path": "old.ckpt",
}
# of one machine, or of one command: another one would wait, stop, or do something else
IGNORED = {
    "data": {"num_workers": 1024, "predict_path": "/home"},
    "trainer": {
        "fast_dev_run": True, "max_time": "00:00:00:01", "max_steps": 1, "limit_predict_batches": 0,
        "enable_checkpointing": False, "barebones": True, "default_root_dir": "/etc",
    },
    "predictions": {"folder": "/etc"},
    "optimizer": {"class_path": "some.Class"},
}  # fmt: skip


def stored(folder: Path, config: object, verb: str = "fit") -> dict:
    content = bare_checkpoint(yaml.safe_dump(config))
    return yaml.safe_load(stored_config(folder / "last.ckpt", content, verb))


def test_a_fit_that_goes_on_takes_over_what_decides_its_result(tmp_path: Path) -> None:
    assert stored(tmp_path, CONFIG) == {
        "seed_everything": 3,
        "model": CONFIG["model"],
        "data": CONFIG["data"],
        "schedule": CONFIG["schedule"],
        "evaluation": CONFIG["evaluation"],
        "trainer": {"precision": "32-true", "default_root_dir": str(tmp_path)},
    }


@pytest.mark.parametrize("verb", ["test", "validate", "predict"])
def test_other_commands_take_over_the_model_and_the_images_alone(verb: str, tmp_path: Path) -> None:
    assert stored(tmp_path, CONFIG, verb) == {
        "seed_everything": 3,
        "model": CONFIG["model"],
        "data": CONFIG["data"],
        "evaluation": CONFIG["evaluation"],
        "trainer": {"default_root_dir": str(tmp_path)},
    }


def test_paths_by_product_are_taken_over_and_a_fit_takes_masks_too(tmp_path: Path) -> None:
    data = {"root": {"a": "/a"}, "roi": {"a": "/a.png"}, "variants": {"a": ["hflip"]}}
    assert stored(tmp_path, {"data": data})["data"] == data
    images = {name: data[name] for name in ("root", "variants")}
    assert stored(tmp_path, {"data": data}, "predict")["data"] == images


def test_masks_and_variants_of_unknown_products_are_left_out(tmp_path: Path) -> None:
    data = {"variants": {"a": ["hflip"], "gone": ["vflip"]}, "roi": {"gone": "/m"}, "tasks": ["a"]}
    content = {"hyper_parameters": {}, STATE_KEY: {"tasks": [asdict(Task(["a"], 1, 1))]}}
    assert of_known_products(data, content) == {**data, "variants": {"a": ["hflip"]}, "roi": {}}
    assert of_known_products(data, {}) == data


def test_a_product_that_is_learned_again_keeps_its_mask_and_variants() -> None:
    data = {"variants": {"a": ["hflip"]}, "roi": {"a": "/a.png"}}
    aside = Task(["a~2"], 1, 1, replaced=True)
    assert of_known_products(data, {STATE_KEY: {"tasks": [asdict(aside)]}}) == data


def test_every_argument_of_the_data_that_decides_a_fit_is_taken_over_or_named_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = signature(ContinualDataModule).parameters
    taken = stored(tmp_path, {"data": dict.fromkeys(names, 1)})["data"]
    warned = {name for name in names if f"data.{name}" in caplog.text}
    assert set(names) - set(taken) - warned == {"predict_path"}


def test_batches_and_workers_are_taken_over_up_to_their_defaults(tmp_path: Path) -> None:
    defaults = {k: v.default for k, v in signature(ContinualDataModule).parameters.items()}
    for key in ("batch_size", "num_workers"):
        most = defaults[key]
        for value, taken in ((0, True), (most, True), (most + 1, False), (-1, False), ("2", False)):
            found = stored(tmp_path, {"data": {key: value}}, "predict")["data"]
            assert found == ({key: value} if taken else {})
    # the batches of a fit decide its result
    assert stored(tmp_path, {"data": {"batch_size": 64}})["data"] == {"batch_size": 64}


@pytest.mark.parametrize("verb", ["fit", "test", "validate", "predict"])
def test_what_is_of_one_machine_or_one_command_is_ignored_in_silence(
    verb: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert stored(tmp_path, IGNORED, verb) == {
        "trainer": {"default_root_dir": str(tmp_path)},
        "data": {},
    }
    assert not caplog.messages


@pytest.mark.parametrize(
    ("key", "value", "usual"),
    [("devices", 64, 1), ("num_nodes", 8, 1), ("strategy", "ddp", "auto")],
)
def test_devices_are_not_taken_over_and_a_fit_says_so(
    key: str, value: object, usual: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for verb, other in (("fit", usual), ("predict", value), ("fit", value)):
        caplog.clear()
        taken = stored(tmp_path, {"trainer": {key: other}}, verb)["trainer"]
        assert set(taken) == {"default_root_dir"}
        assert len(caplog.messages) == (verb == "fit" and other == value)
    assert f"ignored arguments of the checkpoint: trainer.{key}. " in caplog.text


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("trainer", "callbacks", [{"class_path": "some.Class"}]),
        ("trainer", "callbacks", "some.Class"),
        ("trainer", "logger", {"class_path": "some.Class", "init_args": {"save_dir": "/etc"}}),
        ("trainer", "profiler", "some.Class"),
        ("trainer", "plugins", ["some.Class"]),
        ("trainer", "strategy", {"class_path": "some.Class"}),
        ("trainer", "precision", {"class_path": "some.Class"}),
        ("model", "optimizer", {"class_path": "subprocess.Popen", "init_args": {"args": "x"}}),
        ("model", "optimizer", "os.system"),
        ("model", "optimizer", "torch.optim.optimizer.functools.partial"),
        ("model", "grid", {"class_path": "some.Class"}),
        ("data", "tasks", [{"class_path": "some.Class"}]),
        ("data", "variants", {"class_path": "some.Class"}),
        ("data", "variants", {"a": ["hflip", {"class_path": "some.Class"}]}),
        ("data", "feature_store", "/elsewhere"),
        ("data", "roi", {"class_path": "some.Class"}),
        ("data", "root", {"a": {"class_path": "some.Class"}}),
    ],
)
def test_what_names_code_or_a_place_is_left_out_with_a_warning(
    part: str, key: str, value: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = {"trainer": "accelerator", "model": "smooth", "data": "image_size"}[part]
    taken = stored(tmp_path, {part: {other: 1, key: value}})
    (warning,) = caplog.messages
    assert re.search(f"{part}.{key}.*may come from anyone", warning)
    assert key not in taken[part]
    assert taken[part][other] == 1


def test_optimizer_of_torch_is_kept(tmp_path: Path) -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    assert stored(tmp_path, {"model": {"optimizer": optimizer}})["model"] == {
        "optimizer": optimizer,
    }


@pytest.mark.parametrize(
    "config", ["text", [1], {"model": "file.yaml"}, {"trainer": [1]}, {"data": None}]
)
def test_arguments_that_are_none_are_refused(config: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="last.ckpt .* are not valid"):
        stored(tmp_path, config)


@pytest.mark.parametrize(
    "text", ["model: " + "[" * 20_000, "a: &a [*a]", f"a: {'x' * 2**20}", "a: [", "\x00"]
)
def test_arguments_that_stand_for_too_much_or_are_no_yaml_are_refused(
    text: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="last.ckpt .* are not valid") as error:
        stored_config(tmp_path / "last.ckpt", bare_checkpoint(text), "predict")
    assert "\n" not in str(error.value)


def test_yaml_that_would_build_an_object_is_refused(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    text = f"model: !!python/object/apply:pathlib.Path.touch [{touched}]"
    with pytest.raises(CheckpointError, match="arguments in the checkpoint are not valid"):
        stored_config(tmp_path / "last.ckpt", bare_checkpoint(text), "fit")
    assert not touched.exists()
