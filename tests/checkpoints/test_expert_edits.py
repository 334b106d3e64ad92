import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.expert_edits import (
    add,
    base_hash,
    extract,
    learned_schedule,
    remove,
    rename,
    set_aside,
    with_product_renamed,
)
from moleflow_pl.checkpoints.experts import Expert
from moleflow_pl.checkpoints.io import write_checkpoint
from moleflow_pl.checkpoints.schema import CONFIG_KEY, STATE_KEY
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import Task
from tests.helpers.models import fit
from tests.helpers.products import SIZE

Checkpoint = dict[str, Any]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Checkpoint:
    """A checkpoint of `01`, `b` and `c`; look, but do not touch."""
    run = tmp_path_factory.mktemp("three")
    fit(run, data_root, ["01", "b", "c"])
    return torch.load(run / "last.ckpt", weights_only=True)


def read(checkpoint: Checkpoint, folder: Path) -> MoLEFlow:
    write_checkpoint(checkpoint, folder / "x.ckpt")
    return MoLEFlow.load_from_checkpoint(folder / "x.ckpt").eval()


def scores(checkpoint: Checkpoint, folder: Path) -> dict[str, torch.Tensor]:
    """Patch scores of the same images by every expert, by product."""
    module = read(checkpoint, folder)
    images = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = module.inspector.extractor(images)
        return {
            name: torch.cat(
                [found.patch_scores.flatten(), found.score, found.novelty_distance[:, i]]
            )
            for i, name in enumerate(module.schedule.names)
            for found in [module.inspector.inspect(features, i)]
        }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *names: str) -> bool:
    return all(torch.equal(one[name], other[name]) for name in names)


def through_a_file(expert: Expert, path: Path) -> Expert:
    expert.save(path)
    return Expert.load(path)


def test_expert_without_calibration_is_read_back(three: Checkpoint, tmp_path: Path) -> None:
    expert = extract(three, "b")
    expert.task.calibration = None
    expert.task.products = ["[b"]
    back = through_a_file(expert, tmp_path / "x.safetensors")
    assert (back.task.products, back.task.calibration) == (["[b"], None)
    assert all(torch.equal(back.tensors[key], tensor) for key, tensor in expert.tensors.items())


@pytest.mark.parametrize("name", ["01", "b", "c"])
def test_an_expert_that_went_and_came_back_scores_bit_for_bit(
    name: str, three: Checkpoint, tmp_path: Path
) -> None:
    before = scores(three, tmp_path)
    changed = copy.deepcopy(three)
    expert = through_a_file(extract(changed, name), tmp_path / "x.safetensors")
    remove(changed, name)
    others = [other for other in before if other != name]
    left = scores(changed, tmp_path)
    assert list(left) == others
    assert same(before, left, *others)
    add(changed, expert)
    back = scores(changed, tmp_path)
    assert list(back) == [*others, name]
    assert same(before, back, *before)
    calibration = read(changed, tmp_path).schedule.tasks[-1].calibration
    assert calibration is not None
    original = learned_schedule(three).tasks[list(before).index(name)]
    assert calibration == original.calibration


def test_an_expert_learned_at_one_site_works_at_another(
    three: Checkpoint, tmp_path: Path, data_root: Path
) -> None:
    """The other site has the base alone, and learned something else since."""
    shared = tmp_path / "shared"
    fit(shared, data_root, ["01"])
    other = fit(tmp_path / "other", data_root, ["01", "c"], ckpt_path=shared / "last.ckpt")
    assert other.schedule.names == ["01", "c"]
    checkpoint = torch.load(tmp_path / "other" / "last.ckpt", weights_only=True)
    before = scores(checkpoint, tmp_path)
    add(checkpoint, extract(three, "b"))
    after = scores(checkpoint, tmp_path)
    assert same(before, after, "01", "c")
    assert torch.equal(after["b"], scores(three, tmp_path)["b"])
    assert [task.products for task in learned_schedule(checkpoint).tasks] == [["01"], ["c"], ["b"]]


@pytest.mark.parametrize("change", ["import", "remove"])
def test_a_fit_goes_on_after_experts_came_and_went(
    change: str, three: Checkpoint, tmp_path: Path, data_root: Path
) -> None:
    checkpoint = copy.deepcopy(three)
    expert = extract(checkpoint, "b")
    remove(checkpoint, "b")
    plan = ["01", "c"]
    if change == "import":
        add(checkpoint, expert)
        plan.append("b")
    write_checkpoint(checkpoint, tmp_path / "run" / "last.ckpt")
    before = scores(checkpoint, tmp_path)
    rename(checkpoint, "c", "old")
    write_checkpoint(checkpoint, tmp_path / "run" / "last.ckpt")
    plan = ["old" if name == "c" else name for name in plan]
    module = fit(tmp_path / "on", data_root, [*plan, "c"], ckpt_path=tmp_path / "run" / "last.ckpt")
    assert module.schedule.current is None
    assert [task.epochs_done for task in module.schedule.tasks] == [2] * (len(plan) + 1)
    after = scores(torch.load(tmp_path / "on" / "last.ckpt", weights_only=True), tmp_path)
    assert torch.equal(before["c"], after["old"])
    assert torch.equal(before["01"], after["01"])


def test_everything_that_belongs_to_a_task_travels_whatever_parts_it_has(
    three: Checkpoint, tmp_path: Path
) -> None:
    """A part that this version knows nothing of, in a dictionary of tasks."""
    checkpoint = copy.deepcopy(three)
    checkpoint[STATE_KEY]["per_task"].append("whitening.3.adapters")
    for task in range(3):
        checkpoint["state_dict"][f"whitening.3.adapters.{task}.matrix.0"] = torch.full((2,), task)
    checkpoint["state_dict"]["whitening.3.adapters_of_the_base.1"] = torch.ones(1)
    expert = through_a_file(extract(checkpoint, "b"), tmp_path / "x.safetensors")
    assert expert.tensors["whitening.3.adapters.*.matrix.0"].tolist() == [1, 1]
    remove(checkpoint, "b")
    add(checkpoint, expert)
    moved = [checkpoint["state_dict"][f"whitening.3.adapters.{t}.matrix.0"][0] for t in range(3)]
    assert moved == [0, 2, 1]


def test_an_expert_of_another_base_is_refused_with_both_hashes(
    three: Checkpoint, tmp_path: Path
) -> None:
    other = copy.deepcopy(three)
    other["state_dict"]["inspector.flow.flow.module_list.0.global_offset"] += 1e-6
    remove(other, "b")
    with pytest.raises(CheckpointError) as error:
        add(other, extract(three, "b"))
    assert base_hash(three) in str(error.value)
    assert base_hash(other) in str(error.value)
    other = copy.deepcopy(three)
    other[STATE_KEY]["backbone"]["layers"] = [1]
    with pytest.raises(CheckpointError, match="another backbone .*layers"):
        add(other, extract(three, "b"))


def test_base_is_the_same_whatever_experts_stand_on_it(three: Checkpoint) -> None:
    expected = base_hash(three)
    fewer = copy.deepcopy(three)
    remove(fewer, "01")
    assert base_hash(fewer) == expected


def test_renaming_changes_a_name_and_no_tensor(three: Checkpoint, tmp_path: Path) -> None:
    changed = copy.deepcopy(three)
    rename(changed, "b", "bolt")
    assert learned_schedule(changed).names == ["01", "bolt", "c"]
    before, after = three["state_dict"], changed["state_dict"]
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    for task in changed[STATE_KEY]["tasks"][1:]:
        assert list(task["evaluation"]["decisions"][1]) == ["bolt"]


def with_arguments(checkpoint: Checkpoint, data: dict[str, Any]) -> Checkpoint:
    """A copy of a checkpoint with other arguments of the data."""
    changed = copy.deepcopy(checkpoint)
    changed[CONFIG_KEY] = yaml.safe_dump({"seed_everything": 1, "data": data})
    return changed


def data_of(checkpoint: Checkpoint) -> dict[str, Any]:
    return yaml.safe_load(checkpoint[CONFIG_KEY])["data"]


def test_arguments_of_a_product_follow_its_name(three: Checkpoint) -> None:
    masks = {"01": "/m/01.png", "b": "/m/b.png"}
    variants = {"bolt": ["vflip"], "b": ["hflip"]}  # the former of a product that was removed
    given = {"root": "/images", "roi": masks, "variants": variants, "layout": "folder"}
    changed = with_arguments(three, given)
    rename(changed, "b", "bolt")
    expected = {
        "root": "/images",
        "roi": {"01": "/m/01.png", "bolt": "/m/b.png"},
        "variants": {"bolt": ["hflip"]},
        "layout": "folder",
        "tasks": ["01", "bolt", "c"],
    }
    assert data_of(changed) == expected
    expert = extract(changed, "bolt")
    remove(changed, "bolt")
    add(changed, expert)
    assert data_of(changed) == {**expected, "tasks": ["01", "c", "bolt"]}


def test_a_new_version_of_a_product_keeps_its_arguments(three: Checkpoint) -> None:
    changed = with_arguments(three, {"variants": {"b": ["hflip"]}})
    expert = extract(three, "b")
    aside = set_aside(changed, ["b"], 1)
    add(changed, expert)
    remove(changed, aside)
    assert data_of(changed)["variants"] == {"b": ["hflip"]}


def test_a_product_of_a_group_keeps_its_threshold_under_another_name() -> None:
    task = Task(["a", "b"], 1, calibration=Calibration([1.0, 2.0], products=["b", "a"]))
    renamed = with_product_renamed(task, "b", "c")
    assert renamed.products == ["a", "c"]
    assert renamed.calibration == Calibration([1.0, 2.0], products=["c", "a"])
    assert task.products == ["a", "b"]
    assert task.calibration == Calibration([1.0, 2.0], products=["b", "a"])


def test_invalid_names_are_refused(three: Checkpoint) -> None:
    changed = copy.deepcopy(three)
    for old, new, message in (
        ("b", "c", r"already knows \['c'\]"),
        ("x", "y", r"no product 'x' in this model: it knows \['01', 'b', 'c'\]"),
        ("b", "a/b", "must be a valid folder name"),
        ("b", " ", "must be a valid folder name"),
        ("b", "a" * 201, "of at most 200 bytes"),
        ("b", "ä" * 101, "of at most 200 bytes"),
    ):
        with pytest.raises(ConfigError, match=message):
            rename(changed, old, new)
    with pytest.raises(ConfigError, match=r"already knows \['b'\]"):
        add(changed, extract(three, "b"))
    add(changed, extract(three, "b"), name="b2")
    assert learned_schedule(changed).names == ["01", "b", "c", "b2"]


def test_the_last_expert_stays(three: Checkpoint) -> None:
    changed = copy.deepcopy(three)
    remove(changed, "01")
    remove(changed, "c")
    with pytest.raises(ConfigError, match="'b' is the only expert"):
        remove(changed, "b")


def test_a_half_learned_task_has_to_be_finished_first(three: Checkpoint) -> None:
    changed = copy.deepcopy(three)
    changed[STATE_KEY]["tasks"][2]["epochs_done"] = 1
    with pytest.raises(CheckpointError, match="'c' is partly learned"):
        extract(changed, "b")


@pytest.mark.parametrize("what", ["base", "missing", "shape", "dtype"])
def test_an_expert_cannot_bring_tensors_that_are_not_an_experts(
    what: str, three: Checkpoint, tmp_path: Path
) -> None:
    expert = extract(three, "b")
    remove(three := copy.deepcopy(three), "b")
    own = next(key for key in expert.tensors if "lora_A" in key)
    if what == "base":
        # it would change what all experts stand on
        expert.tensors["inspector.flow.reference_mean"] = torch.zeros(64)
    elif what == "missing":
        del expert.tensors[own]
    elif what == "shape":
        expert.tensors[own] = torch.zeros(7)
    else:
        expert.tensors[own] = expert.tensors[own].to(torch.int8)
    before = base_hash(three)
    with pytest.raises(CheckpointError, match="'b' has other tensors"):
        add(three, through_a_file(expert, tmp_path / "b.safetensors"))
    assert base_hash(three) == before


def test_an_expert_with_memory_banks_of_another_size_is_added_and_uneven_ones_refused(
    tmp_path: Path, data_root: Path
) -> None:
    model = {"score": ["depths", "groups"]}
    fit(tmp_path, data_root, ["01", "b"], epochs=1, model=model)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    expert = extract(checkpoint, "b")
    banks = [key for key in expert.tensors if key.endswith((".values", ".factors"))]
    assert len(banks) == 4
    for key in banks:
        expert.tensors[key] = expert.tensors[key][:5].clone()
    before = scores(checkpoint, tmp_path)
    add(checkpoint, expert, "smaller")
    after = scores(checkpoint, tmp_path)
    assert same(before, after, "01", "b")
    assert after["smaller"].isfinite().all()
    assert not torch.equal(after["smaller"], after["b"])
    expert.tensors[banks[0]] = expert.tensors[banks[0]][:4].clone()
    with pytest.raises(CheckpointError, match="has other tensors .*vectors"):
        add(checkpoint, expert, "uneven")
