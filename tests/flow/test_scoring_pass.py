import copy

import pytest
import torch
from torch.testing import assert_close

from moleflow_pl import MoLESpatialAwareNF
from moleflow_pl.flow import spatial_nf
from moleflow_pl.flow.scoring_pass import CPU_ROWS
from tests.helpers.models import wake


@pytest.fixture
def one_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows keep one merged expert: with more, batches of few images for each are mixed."""
    monkeypatch.setattr(spatial_nf, "CACHED_EXPERTS", 1)


def awake_flow(tasks: int = 2, **options: bool) -> MoLESpatialAwareNF:
    flow = MoLESpatialAwareNF(12, coupling_layers=3, lora_rank=4, **options)
    for task in range(tasks):
        flow.add_task(task)
    wake(flow)
    return flow


@pytest.mark.parametrize("switch", ["", "use_lora", "use_task_bias", "use_task_adapter"])
def test_merged_expert_scores_as_the_unmerged(switch: str) -> None:
    flow = awake_flow(**({switch: False} if switch else {}))
    features = torch.randn(5, 20, 25, 12)  # more rows than go at once
    assert features[..., 0].numel() > CPU_ROWS
    for task in (0, 1):
        expected = flow(features, task)
        with torch.no_grad():
            merged = flow(features, task)
        for one, other in zip(merged, expected, strict=True):
            assert_close(one, other.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("one_cached")
@pytest.mark.parametrize("switch", ["", "use_lora", "use_task_bias", "use_task_adapter"])
# all images at once, four, less than one
@pytest.mark.parametrize("grid", [(4, 4), (20, 50), (60, 70)])
def test_each_image_of_a_mixed_batch_scores_by_its_own_expert(
    switch: str, grid: tuple[int, int]
) -> None:
    flow = awake_flow(4, **({switch: False} if switch else {}))
    features, tasks = torch.randn(6, *grid, 12), torch.tensor([3, 0, 1, 2, 0, 3])
    images = list(zip(features, tasks.tolist(), strict=True))
    with torch.no_grad():
        latent, log_det = flow(features, tasks)
        middle = flow.encode_half(features, tasks)
        latent_after_both = flow.finish(middle, tasks)
    one_by_one = [flow(image[None], task) for image, task in images]
    assert_close(latent, torch.cat([z for z, _ in one_by_one]).detach(), rtol=1e-5, atol=1e-5)
    assert_close(log_det, torch.cat([ld for _, ld in one_by_one]).detach(), rtol=1e-5, atol=1e-5)
    assert_close(latent_after_both, latent)


@pytest.mark.usefixtures("one_cached")
def test_mixed_batch_is_scored_in_single_precision_under_autocast() -> None:
    flow = awake_flow(3)
    features, tasks = torch.randn(3, 4, 4, 12), torch.arange(3)
    with torch.no_grad():
        expected = flow(features, tasks)[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(flow(features, tasks)[0], expected)
            assert torch.equal(flow.finish(flow.encode_half(features, tasks), tasks), expected)


@pytest.mark.usefixtures("one_cached")
@pytest.mark.parametrize("tasks", [[0, 1, 2], [0, 0, 0]])
def test_latents_of_another_precision_are_finished_in_that_of_the_flow(tasks: list[int]) -> None:
    flow = awake_flow(3)
    middle = flow.encode_half(torch.randn(3, 4, 4, 12), torch.tensor(tasks))
    expected = flow.finish(middle, torch.tensor(tasks))
    assert torch.equal(flow.finish(middle.double(), torch.tensor(tasks)), expected)


def test_experts_that_all_stay_cached_are_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = awake_flow(4)
    features, tasks = torch.randn(4, 4, 4, 12), torch.arange(4)
    with torch.no_grad():
        expected = flow(features, tasks)
        monkeypatch.setattr(flow._merged, "build", None)
        monkeypatch.setattr(flow, "_mixed_pass", None)
        assert all(map(torch.equal, flow(features, tasks), expected))


@pytest.mark.usefixtures("one_cached")
def test_mixed_batch_merges_no_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = awake_flow(4)
    features = torch.randn(4, 4, 4, 12)
    monkeypatch.setattr(flow._merged, "build", None)
    with torch.no_grad():
        assert flow(features, torch.arange(4))[0].isfinite().all()


def test_scoring_leaves_the_features_as_they_are() -> None:
    flow = awake_flow(use_task_adapter=False)
    features = torch.randn(1, 4, 4, 12)
    before = features.clone()
    with torch.no_grad():
        flow(features, 0)
    assert torch.equal(features, before)


@pytest.mark.parametrize("change", ["lora_A", "task_biases", "base_linear.weight", "global_scale"])
def test_change_of_any_weight_reaches_the_next_score(change: str) -> None:
    flow = awake_flow()
    features = torch.randn(1, 4, 4, 12)
    with torch.no_grad():
        before = flow(features, 1)[0]
        for name, parameter in flow.named_parameters():
            if change in name:
                parameter.mul_(1.5)
        after = flow(features, 1)[0]
    assert not torch.equal(before, after)
    assert_close(after, flow(features, 1)[0].detach(), rtol=1e-5, atol=1e-5)


def test_copy_of_a_flow_has_merged_experts_of_its_own() -> None:
    flow = awake_flow()
    features = torch.randn(1, 4, 4, 12)
    with torch.no_grad():
        before = flow(features, 0)[0]
        twin = copy.deepcopy(flow)
        wake(twin, 0.5)
        assert not torch.equal(twin(features, 0)[0], before)
        assert torch.equal(flow(features, 0)[0], before)
