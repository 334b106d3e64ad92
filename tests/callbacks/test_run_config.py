from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from moleflow_pl.callbacks.run_config import RunConfig

EXPECTED = {"rank": 3, "clip": None}


def set_up(folder: Path, stage: str) -> SimpleNamespace:
    """A module that the callback has told the arguments of a command."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--clip", type=float | None, default=0.5)
    callback = RunConfig(parser, parser.parse_args(["--rank=3", "--clip=null"]))
    module = SimpleNamespace()
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", logger=False)
    callback.setup(trainer, module, stage)  # type: ignore[arg-type]
    return module


def test_fit_writes_all_its_arguments_and_gives_them_to_the_model(tmp_path: Path) -> None:
    module = set_up(tmp_path, "fit")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == EXPECTED
    assert yaml.safe_load(module.run_config) == EXPECTED


@pytest.mark.parametrize("stage", ["test", "validate", "predict"])
def test_other_commands_leave_the_file_as_it_was(stage: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("of the fit")
    module = set_up(tmp_path, stage)
    assert (tmp_path / "config.yaml").read_text() == "of the fit"
    assert yaml.safe_load(module.run_config) == EXPECTED
