import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from moleflow_pl import MoLEFlow
from moleflow_pl._internal.hashing import content_hash
from moleflow_pl._internal.schema import SEAL
from moleflow_pl.checkpoints.expert_edits import (
    base_hash,
    extract,
    learned_schedule,
)
from moleflow_pl.checkpoints.experts import Expert, taking_over
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.errors import CheckpointError, ConfigError

LISTS = ("scores", "high_patch_scores", "median_patch_scores", "novelty_distances")


def expert_of(learned: tuple[Path, MoLEFlow], name: str) -> Expert:
    return extract(read_checkpoint(learned[0] / "last.ckpt"), name)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_file_whose_name_is_not_utf8_is_read_back(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    path, expert = tmp_path / os.fsdecode(b"\xfe"), expert_of(learned, "b")
    expert.save(path)
    read = Expert.load(path)
    assert read.task.calibration == expert.task.calibration
    assert all(torch.equal(read.tensors[key], value) for key, value in expert.tensors.items())


def test_the_file_holds_the_experts_tensors_and_says_what_they_are(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(learned[0] / "last.ckpt")
    extract(checkpoint, "b").save(tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        text, keys = file.metadata(), list(file.keys())
    parts = ("input_adapters.*.whitening", "lora_A.*", "task_biases.*", "prototypes.*.mean")
    assert all(any(key.endswith(part) for key in keys) for part in parts)
    mine = [k for k in checkpoint["state_dict"] if any(f"{p}.1" in k for p in ("lora_A", "lora_B"))]
    assert len([key for key in keys if "lora_" in key]) == len(mine)
    assert text["product"] == "b"
    assert text["base_sha256"] == base_hash(checkpoint)
    assert len(text["data_sha256"]) == 64
    assert json.loads(text["backbone"])["backbone"] == "test_vit"
    assert json.loads(text["metrics"])["image_auroc"]["oracle"] is not None
    assert "torch" in json.loads(text["versions"])
    task = learned_schedule(checkpoint).tasks[1]
    assert task.calibration is not None
    assert float(text["threshold"]) == task.calibration.score_threshold.value
    assert json.loads(text["task"])["calibration"]["scores"] == task.calibration.scores


def test_file_that_is_no_expert_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 100)
    for path in (tmp_path / "x", tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="no expert file at"):
            Expert.load(path)


def in_a_file(expert: Expert, place: Path, **changes: Any) -> Path:
    """A sealed file of an expert in which some text is another, or (None) not there."""
    tensors = {k: t.contiguous() for k, t in expert.tensors.items()}
    said = {**expert.metadata(), **changes}
    text = {key: value for key, value in said.items() if value is not None}
    save_file(tensors, place, {**text, SEAL: content_hash([text, tensors])})
    return place


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": None}, "'task'"),
        ({"task": "{"}, "used: Expecting"),
        ({"task": "3"}, "expected a dictionary, found 3"),
        ({"task": '{"products": ["../../x"], "epochs": 1, "epochs_done": 1}'}, "not valid names"),
        ({"task": '{"products": ["/x"], "epochs": 1, "epochs_done": 1}'}, "not valid names"),
        ({"task": '{"products": ["x"], "epochs": 9, "epochs_done": 1}'}, "is not learned"),
        ({"task": '{"products": ["x"], "epochs": "1"}'}, "epochs: expected a whole number"),
        ({"lists": '["tasks"]'}, "is not learned"),
        ({"lists": "3"}, "lists: expected a list"),
        ({"structure": "[]"}, "structure: expected a dictionary"),
        ({"metrics": '{"a": {"b": NaN}}'}, "expected a finite number"),
        ({"schema": "7"}, "schema 7.* reads schema 1: use version"),
        ({"schema": "seven"}, "has no schema"),
        ({"schema": "9" * 5000}, "has no schema"),
        ({"task": "[" * 20_000}, "maximum recursion depth"),
    ],
)
def test_an_experts_file_that_is_not_whole_is_refused_in_one_sentence(
    changes: dict, said: str, learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    path = in_a_file(expert_of(learned, "b"), tmp_path / "b.safetensors", **changes)
    with pytest.raises(CheckpointError, match=said) as error:
        Expert.load(path)
    assert "b.safetensors" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


FLIPPED = (lambda old: old + 1, lambda old: old.double(), lambda old: old[None], torch.zeros_like)


@pytest.mark.parametrize("change", FLIPPED)
def test_file_with_another_tensor_than_was_written_is_refused_by_name(
    change: Callable[[torch.Tensor], torch.Tensor], learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    expert, path = expert_of(learned, "b"), tmp_path / "b.safetensors"
    expert.save(path)
    with safe_open(path, framework="pt") as file:
        text, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    name = next(key for key in tensors if "lora_B" in key)
    save_file({**tensors, name: change(tensors[name])}, path, text)
    with pytest.raises(CheckpointError, match="the expert file .*b.safetensors is damaged"):
        Expert.load(path)


@pytest.mark.parametrize("key", ["threshold", "product", "versions", SEAL])
def test_file_with_other_text_than_was_written_is_refused(
    key: str, learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    expert, path = expert_of(learned, "b"), tmp_path / "b.safetensors"
    tensors = {k: t.contiguous() for k, t in expert.tensors.items()}
    text = {**expert.metadata(), SEAL: content_hash([expert.metadata(), tensors])}
    save_file(tensors, path, text)
    Expert.load(path)
    save_file(tensors, path, {**text, key: "0"})
    with pytest.raises(CheckpointError, match="is damaged: its contents"):
        Expert.load(path)


def test_parameter_of_an_expert_that_is_not_finite_is_refused_by_name(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    expert = expert_of(learned, "b")
    name = next(key for key in expert.tensors if "lora_B" in key)
    expert.tensors[name] = torch.full_like(expert.tensors[name], torch.nan)
    expert.save(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"b.safetensors cannot be used: .*lora_B.*NaN"):
        Expert.load(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"false_alarm_rate": 1e-300}, "false_alarm_rate must be a number from 1e-06 to below 1"),
        ({"false_alarm_rate": 2.0}, "false_alarm_rate must be a number from 1e-06 to below 1"),
        ({"scores": [1e300, 1.0]}, "no score exceeds the limit"),
        ({"high_patch_scores": [1e300, 1.0]}, "have the median"),
        ({"damaged_novelty_distances": [1e300, 1.0]}, "no score exceeds the limit"),
        ({"scores": []}, r"its lists have \[0, 2\] images"),
        ({key: [] for key in LISTS}, r"its lists have \[0\] images"),
        ({"scores": [float("inf"), 1.0]}, "expected a finite number"),
    ],
)
def test_file_with_invalid_thresholds_is_refused_by_name(
    change: dict, said: str, learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    expert = expert_of(learned, "b")
    text = json.loads(expert.metadata()["task"])
    two = {name: [1.0, 2.0] for name in LISTS}
    text["calibration"] = {**two, **change}
    path = in_a_file(expert, tmp_path / "b.safetensors", task=json.dumps(text))
    with pytest.raises(CheckpointError, match=f"b.safetensors cannot be used: .*{said}"):
        Expert.load(path)


@pytest.mark.parametrize("error", [KeyError("x"), CheckpointError("another base"), TypeError()])
def test_what_an_experts_file_breaks_names_it(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match="the expert file .*b.safetensors"),
        taking_over(tmp_path / "b.safetensors"),
    ):
        raise error


def test_errors_not_caused_by_an_expert_file_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^known$"), taking_over(tmp_path / "b.safetensors"):
        raise ConfigError("known")
