import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

from moleflow_pl import MoLEFlow, MoLESpatialAwareNF
from moleflow_pl.checkpoints.expert_edits import set_aside
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.flow import spatial_nf
from moleflow_pl.flow.scoring_pass import ScoringPass
from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.model import restore
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.model.restore import HYPER_PARAMETERS, inspector_state, load_inspector
from moleflow_pl.routing import router
from tests.helpers.checkpoints import save_sealed
from tests.helpers.models import some_tasks
from tests.helpers.products import SIZE

PRODUCTS = 5
SCHEMA1 = Path(__file__).parents[1] / "formats" / "schema1" / "last.ckpt"


@pytest.fixture
def of_five(tiny_model: Callable[..., MoLEFlow], tmp_path: Path) -> Path:
    """A checkpoint of five products with memory banks."""
    module = some_tasks(tiny_model(score=["depths", "groups"], layers=[[0], [1]]), PRODUCTS)
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    write_checkpoint(checkpoint, tmp_path / "five.ckpt")
    return tmp_path / "five.ckpt"


@pytest.fixture
def from_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Inspector]:
    """Loads an inspector whose tensors stay on disk, and of which two tasks are ready at a time."""

    def load(path: Path) -> Inspector:
        with monkeypatch.context() as patch:
            patch.setattr(restore, "LARGEST_IN_MEMORY", 0)
            patch.setattr(spatial_nf, "CACHED_EXPERTS", 2)
            patch.setattr("moleflow_pl.model.inspector.CACHED_BANKS", 2)
            inspector = load_inspector(path)
        monkeypatch.setattr(router, "CACHED_ROOTS", 2 * 4 * inspector.extractor.dim**2)
        return inspector

    return load


def answers(inspector: Inspector, features: Tensor, tasks: Tensor) -> list[Tensor]:
    """All that an inspector says of a batch of several products."""
    with torch.inference_mode():
        joined = inspector.joined(features)
        distances = inspector.measure_distances(joined)[1]
        novelty = inspector.novelty_distances(joined, distances, tasks)
        return [inspector.patch_scores(features, tasks), distances, novelty]


def batches(inspector: Inspector, count: int = 12) -> list[tuple[Tensor, Tensor]]:
    """Features and tasks of mixed batches, of two tasks or more."""
    generator = torch.Generator().manual_seed(0)
    shape = inspector.extractor.shape
    found = []
    for kinds in [2, 4] * (count // 2):
        tasks = torch.randperm(PRODUCTS, generator=generator)[:kinds].repeat(4 // kinds)
        found.append((torch.randn(4, *shape, generator=generator), tasks))
    return found


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether two answers are the same to the bit."""
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_products_on_disk_answer_as_those_in_memory_to_the_bit(
    of_five: Path, from_disk: Callable[[Path], Inspector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spatial_nf, "CACHED_EXPERTS", 2)  # mixed batches for both
    held, stored = load_inspector(of_five), from_disk(of_five)
    given = batches(held)
    assert all(len(tasks.unique()) > 1 for _, tasks in given)
    expected = [answers(held, *batch) for batch in given]
    assert all(map(equal, expected, [answers(stored, *batch) for batch in given]))


def test_loading_runs_no_image_through_the_backbone(
    of_five: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image went through the backbone")

    monkeypatch.setattr("moleflow_pl.features.extractor.feature_maps", refuse)
    monkeypatch.setattr("moleflow_pl.features.extractor.checked_maps", refuse)
    assert load_inspector(of_five).interest.tasks.keys() == {"0", "1", "2", "3", "4"}


def test_two_products_of_those_on_disk_are_ready_at_a_time(
    of_five: Path, from_disk: Callable[[Path], Inspector], monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[ref[ScoringPass]] = []

    def merge(*arguments: Any) -> ScoringPass:
        expert = ScoringPass(*arguments)
        merged.append(ref(expert))
        return expert

    monkeypatch.setattr(spatial_nf, "ScoringPass", merge)
    held, stored = load_inspector(of_five), from_disk(of_five)
    for inspector, ready in ((held, PRODUCTS), (stored, 2)):
        merged.clear()
        banks = [inspector.search_banks(task) for task in range(PRODUCTS)]
        for batch in batches(inspector):
            answers(inspector, *batch)
        assert sum(expert() is not None for expert in merged) == ready
        again = [inspector.search_banks(task) for task in range(PRODUCTS)]
        assert [one is other for one, other in zip(banks, again, strict=True)] == (
            [inspector is held] * PRODUCTS
        )


def test_threads_share_a_cache_of_two_products(
    of_five: Path, from_disk: Callable[[Path], Inspector]
) -> None:
    stored = from_disk(of_five)
    given = batches(stored)
    expected = [answers(stored, *batch) for batch in given]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda batch: answers(stored, *batch), 3 * given)
        assert all(map(equal, 3 * expected, found))


def test_products_stay_on_disk_where_they_are_many(
    of_five: Path, from_disk: Callable[[Path], Inspector]
) -> None:
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("only Linux tells what is mapped")

    def ranges() -> list[range]:
        lines = [line.split() for line in mapped.read_text().splitlines()]
        ends = [line[0].split("-") for line in lines if line[-1] == str(of_five)]
        return [range(*(int(end, 16) for end in pair)) for pair in ends]

    def mapped_names(inspector: Inspector) -> set[str]:
        places = ranges()
        tensors = inspector.state_dict()
        return {k for k, t in tensors.items() if any(t.data_ptr() in place for place in places)}

    assert mapped_names(load_inspector(of_five)) == set()
    found = mapped_names(stored := from_disk(of_five))
    assert found == {key for key in stored.state_dict() if not key.startswith(restore.BACKBONE)}


def test_a_file_that_is_replaced_leaves_the_loaded_model_as_it_was(
    of_five: Path, from_disk: Callable[[Path], Inspector], learned: tuple[Path, MoLEFlow]
) -> None:
    stored = from_disk(of_five)
    batch = batches(stored)[0]
    shutil.copy(learned[0] / "last.ckpt", of_five.with_suffix(".new"))
    expected = answers(load_inspector(of_five), *batch)
    os.replace(of_five.with_suffix(".new"), of_five)
    assert equal(answers(stored, *batch), expected)


def test_a_change_of_the_model_does_not_reach_the_file(
    of_five: Path, from_disk: Callable[[Path], Inspector]
) -> None:
    stored = from_disk(of_five)
    before = of_five.read_bytes()
    with torch.no_grad():
        for tensor in stored.flow.parameters():
            tensor.add_(1)
    assert of_five.read_bytes() == before


def test_loading_draws_no_random_numbers_and_leaves_no_tensor_without_values(
    of_five: Path, from_disk: Callable[[Path], Inspector]
) -> None:
    state = torch.random.get_rng_state()
    for inspector in (load_inspector(of_five), from_disk(of_five)):
        assert not any(t.is_meta for t in [*inspector.parameters(), *inspector.buffers()])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_tensors_come_in_the_number_formats_of_the_model(of_five: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(of_five)
    weights = checkpoint["state_dict"]
    name = next(name for name in weights if name.endswith("whitening"))
    weights[name] = weights[name].double().T.contiguous().T
    save_sealed(checkpoint, tmp_path / "x.ckpt")
    inspector = load_inspector(tmp_path / "x.ckpt")
    held = inspector.state_dict()[name.removeprefix("inspector.")]
    assert held.dtype == torch.float32
    assert held.is_contiguous()
    assert torch.equal(held, weights[name].float())


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


def test_another_number_format_than_the_learned_one_is_named(
    learned: tuple[Path, MoLEFlow], caplog: pytest.LogCaptureFixture
) -> None:
    for precision, warned in (("float32", False), ("auto", False), ("bfloat16", True)):
        caplog.clear()
        load_inspector(learned[0] / "last.ckpt", precision=precision)
        found = "precision bfloat16: the model was learned with float32" in caplog.text
        assert found == warned, precision


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
    assert inspector.router.tasks == inspector.novelty_router.tasks == [0]
    assert inspector_state(inspector, inspector)["prototypes"] == [0, 1]  # it is kept whole
    decisions = DecisionMaker(inspector.schedule)
    with torch.no_grad():
        found = decisions.decide(inspector(torch.rand(2, 3, SIZE, SIZE)), [(9, 9)] * 2)
    assert [one.product for one in found] == ["01", "01"]


@pytest.mark.parametrize("change", [{"backbone": "no_such"}, {"lora_rank": 3}])
def test_damage_is_named_and_not_what_follows_from_it(change: dict, tmp_path: Path) -> None:
    content = torch.load(SCHEMA1, weights_only=True)
    content[HYPER_PARAMETERS].update(change)
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="last.ckpt cannot be used: it is damaged"):
        load_inspector(tmp_path / "last.ckpt")


def test_an_inspector_of_ones_own_parts_says_that_it_cannot_be_saved(
    tiny_model: Callable[..., MoLEFlow],
) -> None:
    built = tiny_model().inspector
    inspector = Inspector(
        built.extractor, built.flow, built.router, list(built.score.parts.values()), torch.max
    )
    with pytest.raises(ConfigError, match="was put together from parts.*build_inspector"):
        inspector_state(inspector, inspector)
