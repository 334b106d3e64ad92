"""Files from others are refused at once: what hangs, floods or would decide for this machine."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from moleflow_pl import Predictor
from moleflow_pl._internal.files import read_json
from moleflow_pl.checkpoints.experts import Expert
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import CONTAINERS_KEY
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.errors import CheckpointError, MoLEFlowError
from moleflow_pl.export.runtimes import open_file, sums_of
from moleflow_pl.features.extractor import PatchExtractor
from tests.helpers.checkpoints import bare_checkpoint, save_sealed
from tests.helpers.commands import failure, run_here
from tests.helpers.parsing import parse

KEPT = Path(__file__).parents[1] / "formats" / "schema1" / "last.ckpt"
KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


def visa(path: Path) -> object:
    folder = path.parent / "visa" / "split_csv"
    folder.mkdir(parents=True)
    path.rename(folder / "1cls.csv")
    return LAYOUTS["visa"](str(folder.parent))


def exported(path: Path) -> object:
    sums_of(path).write_text(f"{'0' * 64}  {path.name}\n")
    return open_file(path, "torch")


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": read_checkpoint,
    "checkpoint of a Predictor": Predictor.load,
    "expert file": Expert.load,
    "weights": lambda path: PatchExtractor("test_vit", [0], 48, str(path)),
    "list of images": visa,
    "JSON": read_json,
    "exported file": exported,
}
COMMANDS = {
    "checkpoint": ("test", "--ckpt_path={}"),
    "checkpoint of a small verb": ("calibrate", "--ckpt_path={}"),
    "config": ("fit", "--config={}"),
    "weights": ("calibrate", "--ckpt_path=last.ckpt", "--model.backbone_weights={}"),
    "expert file": ("experts", "import", "{}", "--ckpt_path=last.ckpt"),
    "key": ("calibrate", "--ckpt_path=last.ckpt", "--key-file={}"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_or_a_device_is_refused_at_once(
    reader: str, kind: str, tmp_path: Path, no_hang: None
) -> None:
    KINDS[kind](tmp_path / "x")
    with pytest.raises(MoLEFlowError, match="not a file but a pipe or a device") as error:
        READERS[reader](tmp_path / "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", COMMANDS)
def test_a_command_says_so_in_one_line(given: str, tmp_path: Path, no_hang: None) -> None:
    os.mkfifo(tmp_path / "x")
    shutil.copy(KEPT, tmp_path)
    args = [word.format(tmp_path / "x") for word in COMMANDS[given]]
    said = failure(tmp_path, *args)
    assert "not a file but a pipe or a device" in said
    assert "\n" not in said


HOSTILE = {
    "5,000 tasks": (
        {"tasks": [{"products": [f"{i}"], "epochs": 1} for i in range(5_000)]},
        "it has 5000 products, and at most 4096 are",
    ),
    "products of one task": (
        {"tasks": [{"products": [f"{i}" for i in range(5000)], "epochs": 1}]},
        "it has 5000 products, and at most 4096 are",
    ),
    "numbers": ({"experts": list(range(20_000))}, r"experts .{,320} do not fit 0 tasks"),
    "kinds of tensors": (
        {CONTAINERS_KEY: [f"{i}" for i in range(10**4)]}, "it has 10000 kinds of tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_sealed_checkpoint_that_floods_is_refused_in_one_short_sentence(
    name: str, tmp_path: Path, no_hang: None
) -> None:
    state, reason = HOSTILE[name]
    save_sealed(bare_checkpoint(**state), tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=f"last.ckpt cannot be used: {reason}") as error:
        read_checkpoint(tmp_path / "last.ckpt")
    assert len(str(error.value)) < 600


def test_a_name_of_a_tensor_that_floods_is_refused(tmp_path: Path, no_hang: None) -> None:
    content = bare_checkpoint(**{CONTAINERS_KEY: ["0"]})
    content["state_dict"] = {"0." * 10**5 + "x": torch.zeros(1)}
    save_sealed(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="it has 200001 letters in a tensor's name"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_an_expert_file_of_a_long_text_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"task": "[" * 2**24})
    with pytest.raises(CheckpointError, match="header has 16.* bytes, and at most 16777216 are"):
        Expert.load(tmp_path / "a.safetensors")


def test_brackets_in_an_expert_file_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"task": "[" * 20_000})
    with pytest.raises(CheckpointError, match="a.safetensors"):
        Expert.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("safe", [True, False])
def test_a_configuration_runs_any_code_that_it_names_without_safe_config(
    safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"of_others_{safe}.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    path = f"of_others_{safe}.Callback"
    (tmp_path / "c.yaml").write_text(f"trainer: {{callbacks: [{{class_path: {path}}}]}}")
    args = ("fit", "--config=demo", "--config=c.yaml")
    if safe:
        said = failure(tmp_path, *args, "--safe-config")
        assert f"--safe-config: {path} is of the package of_others_True, and only classes" in said
        assert "\n" not in said
    else:
        with pytest.raises(SystemExit):
            run_here(tmp_path, *args)
    assert (tmp_path / "ran").exists() != safe


@pytest.mark.parametrize("verb", ["test", "predict", "validate", "fit"])
def test_a_checkpoint_does_not_decide_for_this_machine(verb: str, tmp_path: Path) -> None:
    hostile = {
        "data": {"num_workers": 1024, "predict_path": "/home", "val_fraction": 0.2},
        "trainer": {"devices": 64, "num_nodes": 8, "fast_dev_run": True, "strategy": "ddp"},
    }
    save_sealed(bare_checkpoint(yaml.safe_dump(hostile)), tmp_path / "last.ckpt")
    config = parse(verb, f"--ckpt_path={tmp_path / 'last.ckpt'}").config[verb]
    assert (config.data.num_workers, config.data.predict_path) == (2, None)
    assert (config.trainer.devices, config.trainer.num_nodes) == (1, 1)
    assert (config.trainer.fast_dev_run, config.trainer.strategy) == (False, "auto")
    assert config.data.val_fraction == 0.2  # what decides the result is taken over
