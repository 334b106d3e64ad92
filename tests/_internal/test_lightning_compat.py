from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from moleflow_pl._internal.lightning_compat import (
    WITHOUT_IMPORTS,
    CheckpointFirstCLI,
    in_utf8,
    replaces_samplers,
    starts_scripts,
    while_restoring,
)


def trainer(**options: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**{"accelerator": "cpu", "max_steps": 1, **quiet, **options})  # type: ignore[arg-type]


def test_only_ddp_by_script_runs_the_command_again() -> None:
    assert starts_scripts(trainer(devices=2, strategy="ddp"))
    assert not starts_scripts(trainer(devices=2, strategy="ddp_spawn"))
    assert not starts_scripts(trainer(devices=1))


@pytest.mark.parametrize("replaces", [True, False])
def test_replacing_samplers_is_the_trainers_argument(replaces: bool) -> None:
    assert replaces_samplers(trainer(use_distributed_sampler=replaces)) == replaces


class Broken(BoringModel):
    """Fails while its checkpoint is read, or in its first step."""

    restoring = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.restoring:
            raise KeyError("torn")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise KeyError("step")


@pytest.mark.parametrize("restoring", [True, False])
def test_errors_of_restoring_are_distinguished_from_others(restoring: bool, tmp_path: Path) -> None:
    source = trainer(default_root_dir=tmp_path, enable_checkpointing=False)
    source.fit(BoringModel())
    source.save_checkpoint(tmp_path / "x.ckpt")
    model = Broken()
    model.restoring = restoring
    with pytest.raises(KeyError) as error:
        trainer(default_root_dir=tmp_path, max_steps=2).fit(model, ckpt_path=tmp_path / "x.ckpt")
    assert while_restoring(error.value) == restoring


class Named(BoringModel):
    """A model whose file may name what builds it."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_a_file_cannot_name_what_builds_a_model(tmp_path: Path) -> None:
    source = trainer(default_root_dir=tmp_path, enable_checkpointing=False)
    source.fit(Named(width=3))
    source.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["_instantiator"] = "no.such.module"
    torch.save(checkpoint, tmp_path / "x.ckpt")
    assert Named.load_from_checkpoint(tmp_path / "x.ckpt", **WITHOUT_IMPORTS).hparams["width"] == 3
    with pytest.raises((ModuleNotFoundError, ValueError)):  # imported or blocked, by version
        Named.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)


def test_lightning_still_has_the_methods_that_are_replaced() -> None:
    for name in ("_parse_ckpt_path", "_prepare_subcommand_kwargs", "_run_subcommand"):
        assert callable(getattr(LightningCLI, name))
        assert getattr(CheckpointFirstCLI, name) is not getattr(LightningCLI, name)


class SmallCLI(CheckpointFirstCLI):
    """A command whose methods note what Lightning calls."""

    def before_instantiate_classes(self) -> None:
        self.noted = ["parsed", self.parsed("trainer").max_steps, self.parsed("ckpt_path")]
        self.parsed_callbacks = self.parsed("trainer").callbacks

    def run_subcommand(self, subcommand: str) -> None:
        self.noted += ["begin", subcommand]
        super().run_subcommand(subcommand)
        self.noted.append("end")

    def trainer_arguments(self, subcommand: str) -> dict[str, Any]:
        arguments = super().trainer_arguments(subcommand)
        self.noted.append(arguments["ckpt_path"])
        return {**arguments, "ckpt_path": None}

    def before_fit(self) -> None:
        self.noted.append("before")

    def after_fit(self) -> None:
        self.noted.append("after")


@pytest.fixture
def small_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallCLI:
    """The command after a fit of one step, with a checkpoint that it does not read."""
    monkeypatch.chdir(tmp_path)
    torch.save({"hyper_parameters": {"width": 5}}, tmp_path / "x.ckpt")
    callback = "--trainer.callbacks=lightning.pytorch.callbacks.ModelSummary"
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.devices=1"]
    fit = ["fit", "--ckpt_path=x.ckpt", "--trainer.max_steps=1", "--trainer.accelerator=cpu"]
    return SmallCLI(Named, save_config_callback=None, args=[*fit, callback, *quiet])


def test_lightning_runs_a_subcommand_by_the_methods_that_are_replaced(small_cli: SmallCLI) -> None:
    calls = ["begin", "fit", "before", Path("x.ckpt"), "after", "end"]
    assert [str(call) for call in small_cli.noted] == list(
        map(str, ["parsed", 1, "x.ckpt", *calls])
    )
    assert small_cli.model.hparams["width"] == 1  # not that of the checkpoint
    assert small_cli.trainer.global_step == 1


def test_arguments_of_a_subcommand_are_read_before_and_after_classes_are_built(
    small_cli: SmallCLI,
) -> None:
    parsed, built = small_cli.parsed_callbacks, small_cli.built("trainer").callbacks
    assert parsed.class_path.endswith("ModelSummary")
    assert isinstance(built, ModelSummary)


def test_each_subcommand_has_a_parser_of_its_own_arguments(small_cli: SmallCLI) -> None:
    usage = {verb: small_cli.verb_parser(verb).format_help() for verb in ("fit", "validate")}
    assert "--verbose" in usage["validate"]
    assert "--verbose" not in usage["fit"]


def test_the_writer_of_curves_has_files_that_are_replaced(tmp_path: Path) -> None:
    writer = CSVLogger(tmp_path).experiment
    assert type(in_utf8(writer)._fs).__name__ == "Utf8Files"
