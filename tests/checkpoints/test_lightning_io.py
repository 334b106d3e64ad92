import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.lightning_io import WholeCheckpoints, file_state
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import CheckpointError
from tests.helpers.checkpoints import Bomb
from tests.helpers.models import TINY_MODEL, fit


def test_trainer_loads_no_code_of_a_checkpoint(tmp_path: Path, data_root: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({"state_dict": {}, STATE_KEY: Bomb(touched)}, tmp_path / "bomb.ckpt")
    with pytest.raises(CheckpointError, match="bomb.ckpt is damaged or not a checkpoint"):
        fit(tmp_path / "run", data_root, ["b"], ckpt_path=tmp_path / "bomb.ckpt")
    with pytest.raises(CheckpointError, match="bomb.ckpt is damaged or not a checkpoint"):
        MoLEFlow.load_from_checkpoint(tmp_path / "bomb.ckpt")
    assert not touched.exists()


def test_content_that_was_read_is_handed_out_once(learned: tuple[Path, MoLEFlow]) -> None:
    path, content = learned[0] / "last.ckpt", {"read": "before"}
    reader = WholeCheckpoints(path, content)
    assert reader.load_checkpoint(path) is content
    assert STATE_KEY in reader.load_checkpoint(path)
    assert STATE_KEY in WholeCheckpoints(Path("other.ckpt"), content).load_checkpoint(path)


def test_content_of_a_file_that_was_replaced_since_is_not_handed_out(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    path, content = tmp_path / "last.ckpt", {"read": "before"}
    shutil.copy(learned[0] / "last.ckpt", path)
    before = file_state(path)
    path.rename(tmp_path / "moved.ckpt")
    moved = WholeCheckpoints(tmp_path / "moved.ckpt", content, before)
    assert moved.load_checkpoint(tmp_path / "moved.ckpt") is content
    shutil.copy(learned[0] / "last.ckpt", path)
    with pytest.raises(CheckpointError, match="was changed by another command while this one"):
        WholeCheckpoints(path, content, before).load_checkpoint(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="was changed by another command while this one"):
        WholeCheckpoints(path, content, before).load_checkpoint(path)


def test_any_trainer_of_a_model_refuses_a_damaged_checkpoint(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    content = torch.load(learned[0] / "last.ckpt", weights_only=True)
    next(iter(content["state_dict"].values())).flatten()[0] += 1e-6
    torch.save(content, tmp_path / "x.ckpt")
    trainer = Trainer(logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    images = [{"path": [], "image": torch.zeros(0)}]
    with pytest.raises(CheckpointError, match="x.ckpt cannot be used: it is damaged: its contents"):
        trainer.predict(MoLEFlow(**TINY_MODEL), images, ckpt_path=tmp_path / "x.ckpt")
    trainer.predict(MoLEFlow(**TINY_MODEL), images, ckpt_path=learned[0] / "last.ckpt")
