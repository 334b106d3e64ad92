from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from moleflow_pl._internal.lightning_compat import (
    WITHOUT_IMPORTS,
    CheckpointFirstCLI,
    cpu_has_bfloat16,
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


def test_bfloat16_of_the_cpu_is_known() -> None:
    flags = Path("/proc/cpuinfo")
    if flags.exists() and "avx512_bf16" in flags.read_text():
        assert cpu_has_bfloat16()
    assert isinstance(cpu_has_bfloat16(), bool)


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
    for name in ("_parse_ckpt_path", "_prepare_subcommand_kwargs"):
        assert callable(getattr(LightningCLI, name))
        assert getattr(CheckpointFirstCLI, name) is not getattr(LightningCLI, name)


def test_the_writer_of_curves_has_files_that_are_replaced(tmp_path: Path) -> None:
    writer = CSVLogger(tmp_path).experiment
    assert type(in_utf8(writer)._fs).__name__ == "Utf8Files"
