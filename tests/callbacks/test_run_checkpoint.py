from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import LBFGS, SGD, Adafactor, AdamW

from moleflow_pl import MoLEFlow
from moleflow_pl.callbacks.run_checkpoint import check_optimizer
from moleflow_pl.errors import CheckpointError, OutputError
from tests.helpers.models import fit


def test_last_checkpoint_keeps_its_name_in_a_used_folder(tmp_path: Path, data_root: Path) -> None:
    for _ in range(2):
        fit(tmp_path, data_root, ["b"], epochs=1, callbacks=[])
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["last.ckpt"]


def test_last_checkpoint_has_the_last_evaluation(learned: tuple[Path, MoLEFlow]) -> None:
    loaded = MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")
    assert loaded.schedule.tasks[-1].evaluation is not None


@pytest.mark.parametrize("batch", [0, 1])
def test_run_stopped_in_its_first_epoch_goes_on_from_its_beginning(
    batch: int, learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer, module, outputs, inputs, batch_idx) -> None:  # noqa: ANN001
            if batch_idx == batch:
                raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        fit(tmp_path, data_root, ["01", "b"], callbacks=[Stop()])
    resumed = fit(tmp_path, data_root, ["01", "b"], ckpt_path=tmp_path / "last.ckpt")
    expected = learned[1].state_dict()
    assert all(torch.equal(tensor, expected[k]) for k, tensor in resumed.state_dict().items())
    assert resumed.schedule.tasks[1].evaluation == learned[1].schedule.tasks[1].evaluation


def stepped(kind: Callable[..., Any], change: Callable[[dict], object]) -> Any:
    """An optimizer that has taken over the state of another, as a checkpoint has changed it."""
    made = []
    for _ in range(2):
        layer = torch.nn.Linear(2, 3)
        optimizer = kind(layer.parameters(), lr=0.1)
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.1
        layer(torch.ones(2)).sum().backward()
        optimizer.step(lambda: 1.0)
        made.append(optimizer)
    state = made[0].state_dict()
    change(state)
    made[1].load_state_dict(state)
    return made[1]


@pytest.mark.parametrize("kind", [AdamW, SGD, Adafactor, LBFGS, partial(SGD, momentum=0.9)])
def test_state_of_an_optimizer_is_taken(kind: Callable[..., Any]) -> None:
    check_optimizer(stepped(kind, lambda state: state), partial(kind, lr=0.1))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["param_groups"][0].pop("weight_decay"),
        lambda state: state["param_groups"][0].update(eps="x"),
        lambda state: state["param_groups"][0].update(lr=float("nan")),
        lambda state: state["param_groups"][0].update(initial_lr=None),
        lambda state: state["param_groups"][0].update(betas=(0.9,)),
        lambda state: state["param_groups"][0].update(capturable=-1),
        lambda state: state["param_groups"][0].update(params=["x", 1]),
        lambda state: state["state"].update({0: []}),
        lambda state: state["state"][1].pop("exp_avg"),
        lambda state: state["state"][0].update(step=-1),
        lambda state: state["state"][0].update(exp_avg_sq=torch.ones(7)),
    ],
)
def test_state_that_no_optimizer_leaves_is_refused(change: Callable[[dict], object]) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint's optimizer is damaged: "):
        check_optimizer(stepped(AdamW, change), AdamW)


def test_file_in_the_place_of_a_folder_stops_a_fit_before_it_begins(
    tmp_path: Path, data_root: Path
) -> None:
    (tmp_path / "tasks").touch()
    with pytest.raises(OutputError, match="tasks: it is a file; move it away"):
        fit(tmp_path, data_root, ["b"], epochs=1, callbacks=[])
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]
