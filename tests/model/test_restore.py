from pathlib import Path

import pytest
import torch

from moleflow_pl import MoLEFlow, MoLESpatialAwareNF
from moleflow_pl.checkpoints.expert_edits import set_aside
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.errors import CheckpointError
from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.model.restore import inspector_state, load_inspector
from tests.helpers.checkpoints import save_sealed
from tests.helpers.products import SIZE


def test_inspector_of_a_checkpoint_answers_as_the_model(learned: tuple[Path, MoLEFlow]) -> None:
    run, module = learned
    inspector = load_inspector(run / "last.ckpt")
    images = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, actual = module.eval()(images), inspector(images)
    assert torch.equal(actual.score, expected.score)
    assert torch.equal(actual.distances, expected.distances)
    assert torch.equal(actual.novelty_distance, expected.novelty_distance)
    assert inspector.schedule == module.schedule
    assert not inspector.training


def test_arguments_can_be_replaced_where_the_tensors_stay_the_same(
    learned: tuple[Path, MoLEFlow],
) -> None:
    assert load_inspector(learned[0] / "last.ckpt", precision="auto").extractor.precision == "auto"
    with pytest.raises(CheckpointError, match="another backbone"):
        load_inspector(learned[0] / "last.ckpt", layers=[1])


@pytest.mark.parametrize(("listed", "added"), [("experts", [0]), ("prototypes", [0, 1])])
def test_a_small_file_makes_no_large_model(
    listed: str,
    added: list[int],
    learned: tuple[Path, MoLEFlow],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names tensors of many tasks, and holds one number of each."""
    checkpoint = torch.load(learned[0] / "last.ckpt", weights_only=True)
    state, weights, many = checkpoint["moleflow"], checkpoint["state_dict"], range(2, 2000)
    planned = {**state["tasks"][0], "evaluation": None, "epochs_done": 0}
    state["tasks"] += [{**planned, "products": [f"p{i}"]} for i in many]
    state[listed] += many
    name = next(name for name in weights if ".lora_A.1" in name)
    weights |= {name.replace(".lora_A.1", f".lora_A.{i}"): torch.zeros(1) for i in many}
    save_sealed(checkpoint, tmp_path / "x.ckpt")
    calls: list[int] = []
    add = MoLESpatialAwareNF.add_task

    def counted(flow: MoLESpatialAwareNF, task: int) -> None:
        calls.append(task)
        add(flow, task)

    monkeypatch.setattr(MoLESpatialAwareNF, "add_task", counted)
    with pytest.raises(CheckpointError, match=r"it holds \d+ values, and its tasks need \d+"):
        load_inspector(tmp_path / "x.ckpt")
    assert calls == added


def test_file_without_the_models_arguments_is_refused(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    checkpoint = torch.load(learned[0] / "last.ckpt", weights_only=True)
    del checkpoint["hyper_parameters"]["lora_rank"]
    save_sealed(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"lacks the model's arguments \['lora_rank'\]"):
        load_inspector(tmp_path / "x.ckpt")


def test_no_image_goes_to_a_version_that_is_replaced(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(learned[0] / "last.ckpt")
    assert set_aside(checkpoint, ["b"], 3) == "b~3"
    write_checkpoint(checkpoint, tmp_path / "x.ckpt")
    inspector = load_inspector(tmp_path / "x.ckpt")
    assert inspector.schedule.names == ["01", "b~3"]
    assert inspector.router.tasks == inspector.novelty.tasks == [0]
    assert inspector_state(inspector, inspector)["prototypes"] == [0, 1]  # it is kept whole
    decisions = DecisionMaker(inspector.schedule)
    with torch.no_grad():
        found = decisions.decide(inspector(torch.rand(2, 3, SIZE, SIZE)), [(9, 9)] * 2)
    assert [one.product for one in found] == ["01", "01"]
