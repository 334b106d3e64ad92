from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from tests.helpers.models import fit


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping("nll_per_dim"),
        StochasticWeightAveraging(1e-3),
        EMAWeightAveraging(),
        BackboneFinetuning(),
        ModelPruning("l1_unstructured"),
        LearningRateFinder(),
        BatchSizeFinder(),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_callback_that_knows_one_task_only_is_refused_by_name(
    callback: Callback, tmp_path: Path, data_root: Path
) -> None:
    with pytest.raises(ConfigError, match=f"trainer.callbacks: {type(callback).__name__} "):
        fit(tmp_path, data_root, ["01"], callbacks=[callback])
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("seconds", [0, 0.001])
def test_fit_whose_time_is_up_ends_after_an_epoch_and_the_next_has_all_of_its_time(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path, seconds: float
) -> None:
    for done in (1, 2, 3, 4):
        path = tmp_path / "last.ckpt" if done > 1 else None
        limit = {"max_time": {"seconds": seconds}}
        module = fit(tmp_path, data_root, ["01", "b"], trainer=limit, ckpt_path=path)
        assert module.schedule.epochs_done == done
    expected = learned[1].state_dict()
    assert all(torch.equal(tensor, expected[k]) for k, tensor in module.state_dict().items())


def test_no_time_is_saved(tmp_path: Path, data_root: Path) -> None:
    fit(tmp_path, data_root, ["01"], callbacks=[Timer()])
    callbacks = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert not [name for name in callbacks if "Timer" in name]
