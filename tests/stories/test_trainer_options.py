"""Options of Lightning's Trainer that do not fit end in one line, before anything is written."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from lightning_utilities.core.imports import RequirementCache

from moleflow_pl.checkpoints.run_folder import LOCK
from tests.helpers.commands import MODEL, failure
from tests.helpers.story import Story

# older versions of jsonargparse do not pass on what is wrong within a class
REASONS = bool(RequirementCache("jsonargparse>=4.53"))
LOGGERS = {
    "TensorBoardLogger": "lightning.fabric.loggers.tensorboard",
    "MLFlowLogger": "lightning.pytorch.loggers.mlflow",
    "WandbLogger": "lightning.pytorch.loggers.wandb",
    "CometLogger": "lightning.pytorch.loggers.comet",
}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["precision=64-true"], "trainer.precision 64-true: "),
        (["enable_checkpointing=false"], "trainer.enable_checkpointing false: without checkpoints"),
        (["barebones=true"], "trainer.barebones true: without checkpoints"),
        pytest.param(["accelerator=gpu"], "No supported gpu backend", marks=NO_GPU),
        (["strategy=foo"], "invalid strategy name"),
        (["devices=foo"], "should be an int > 0"),
        (["callbacks+=EarlyStopping", "callbacks.monitor=x"], "trainer.callbacks: EarlyStopping "),
        (["val_check_interval=100"], "trainer.val_check_interval 100 is a number of batches"),
        (["check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch 0: .* at least 1"),
        (["accumulate_grad_batches=0"], "trainer.accumulate_grad_batches 0: .* at least 1"),
        (["default_root_dir=null"], "trainer.default_root_dir null: give the run folder"),
        (["callbacks+=Timer"], "trainer.callbacks: Timer .*: set trainer.max_time"),
        (["callbacks+=Timer", "callbacks.duration=00:01:00:00"], "Timer .*: set trainer.max_time"),
        (
            ["callbacks+=EarlyStopping"],
            "callbacks: EarlyStopping needs monitor" if REASONS else "trainer.callbacks ",
        ),
        (
            ["callbacks+=StochasticWeightAveraging"],
            "Averaging needs swa_lrs" if REASONS else "trainer.callbacks ",
        ),
        (["logger=TensorBoardLogger"], "Logger needs save_dir" if REASONS else "trainer.logger "),
        (
            ["callbacks+=ModelCheckpoint", "callbacks.every_n_epochs=-3"],
            "cannot be built: .*every_n_epochs=-3" if REASONS else "cannot be built: ",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_invalid_option_of_the_trainer_is_an_error_in_one_line(
    options: list[str], told: str, data_root: Path, tmp_path: Path
) -> None:
    args = [f"--data.root={data_root}", "--data.tasks=[b]", *MODEL]
    args += [f"--trainer.{option}" for option in (f"default_root_dir={tmp_path / 'run'}", *options)]
    said = failure(tmp_path, "fit", *args)
    assert said.startswith("moleflow: ")
    assert re.search(told, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("validate", "limit_val_batches"),
        ("test", "limit_test_batches"),
        ("predict", "limit_predict_batches"),
    ],
)
@pytest.mark.parametrize("limit", ["0", "0.0", "0.01"])
def test_a_limit_that_leaves_nothing_to_inspect_is_an_error_in_one_line(
    limit: str, verb: str, option: str, story: Story, tmp_path: Path
) -> None:
    run = story.copy_to(tmp_path)
    before = {path.name for path in run.rglob("*")}
    args = [f"--trainer.{option}={limit}", "--trainer.accelerator=cpu"]
    said = failure(tmp_path, verb, "--ckpt_path", run, *args)
    assert re.search(option, said)
    assert "\n" not in said
    assert {path.name for path in run.rglob("*")} <= {*before, LOCK}


@pytest.mark.parametrize(
    ("logger", "packages"),
    [
        ("TensorBoardLogger", ["tensorboard", "tensorboardX"]),
        ("MLFlowLogger", ["mlflow", "mlflow-skinny"]),
        ("WandbLogger", ["wandb"]),
        ("CometLogger", ["comet_ml", "comet-ml"]),
    ],
)
def test_a_logger_whose_package_is_not_installed_names_it(
    logger: str,
    packages: list[str],
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module(LOGGERS[logger])
    for name, value in vars(module).items():
        if isinstance(value, RequirementCache):
            absent = RequirementCache("absent_" + str(value.requirement or value.module))
            monkeypatch.setattr(module, name, absent)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    args = [f"--data.root={data_root}", "--data.tasks=[b]", *MODEL]
    args += [f"--trainer.default_root_dir={tmp_path / 'run'}", f"--trainer.logger={logger}"]
    args += [f"--trainer.logger.save_dir={tmp_path}"] if logger == "TensorBoardLogger" else []
    said = failure(tmp_path, "fit", *args)
    assert re.search(f"needs a package: .*({'|'.join(packages)}).*; install it$", said)
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()
