import copy

import pytest
import torch
from torch.testing import assert_close

from moleflow_pl import MoLESpatialAwareNF
from moleflow_pl.flow.merged import CPU_ROWS
from tests.helpers.models import wake


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
