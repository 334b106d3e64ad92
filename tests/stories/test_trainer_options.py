"""Options of Lightning's Trainer that do not fit end in one line, before anything is written."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import MODEL, failure

MISSING = pytest.mark.skipif(find_spec("comet_ml") is not None, reason="the package is installed")
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
        pytest.param(["logger=CometLogger"], "needs a package: .*comet", marks=MISSING),
        (["callbacks+=EarlyStopping", "callbacks.monitor=x"], "trainer.callbacks: EarlyStopping "),
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
