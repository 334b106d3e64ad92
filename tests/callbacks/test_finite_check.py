from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from benchmarks.harness.waits import StepReads
from moleflow_pl import MoLEFlow
from moleflow_pl.errors import TrainingError
from tests.helpers.models import fit


class Spoil(Callback):
    """Puts a value into the features of one image, or into a gradient, in epoch 1 of task 1."""

    def __init__(self, what: str, value: float) -> None:
        self.what, self.value = what, value
        self.name = ""

    def due(self, module: MoLEFlow) -> bool:
        return module.schedule.current == 1 and module.schedule.tasks[1].epochs_done == 1

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:  # noqa: ANN001
        if self.what == "loss" and self.due(module):
            batch["features"][1] = self.value
            self.name = Path(batch["path"][1]).name

    def on_after_backward(self, trainer, module) -> None:  # noqa: ANN001
        if self.what == "gradient" and self.due(module):
            module.inspector.flow.expert_parameters(1)[0].grad[0] = self.value


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_the_task_and_keeps_the_last_checkpoint(
    what: str, value: float, tmp_path: Path, data_root: Path
) -> None:
    spoil = Spoil(what, value)
    with pytest.raises(TrainingError, match=f"task 'b', epoch 2 of 2: the {what} is") as error:
        fit(tmp_path, data_root, ["01", "b"], callbacks=[spoil])
    said = str(error.value)
    assert spoil.name in said
    assert said.count(".png") == (1 if what == "loss" else 4)
    loaded = MoLEFlow.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.schedule.tasks[1].epochs_done == 1
    assert all(tensor.isfinite().all() for tensor in loaded.inspector.flow.state_dict().values())


def test_a_training_step_waits_for_the_device_once(tmp_path: Path, data_root: Path) -> None:
    reads = StepReads()
    fit(tmp_path, data_root, ["01"], epochs=1, callbacks=[reads])
    assert reads.steps > 1
    # a step looks at its task too, which stays on the host: on a CPU, that counts
    looks = {place: count / reads.steps for place, count in reads.places.items()}
    assert sorted(place.partition(":")[0] for place in looks) == ["finite_check.py", "module.py"]
    assert set(looks.values()) == {1.0}


@pytest.mark.filterwarnings("ignore:this CPU has no bfloat16")
def test_bfloat16_ends_within_half_a_hundredth_of_float32(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    half = fit(tmp_path, data_root, ["01", "b"], trainer={"precision": "bf16-mixed"})
    for task in (0, 1):
        found, expected = (
            module.schedule.tasks[task].evaluation["metrics"]["image_auroc"]["routed"]
            for module in (half, learned[1])
        )
        assert found == pytest.approx(expected, abs=0.005)
    assert all(torch.isfinite(p).all() for p in half.inspector.flow.parameters())
