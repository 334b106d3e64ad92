from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from benchmarks.literal import LiteralFlow
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.scoring.functional import patch_nll, quantile_score
from tests.helpers.models import wake

SWITCHES = [
    {},
    {"use_lora": False},
    {"use_task_adapter": False},
    {"use_task_bias": False},
    {"use_lora": False, "use_task_adapter": False, "use_task_bias": False},
]


def awake_flow(
    tasks: int = 2, dim: int = 12, coupling_layers: int = 3, **options: object
) -> MoLESpatialAwareNF:
    flow = MoLESpatialAwareNF(dim, coupling_layers, lora_rank=4, **options)
    for task in range(tasks):
        flow.add_task(task)
    wake(flow)
    return flow.double()


def literal_twin(flow: MoLESpatialAwareNF, **options: object) -> LiteralFlow:
    twin = LiteralFlow(flow.embed_dim, coupling_layers=3, lora_rank=4, **options)
    for task in flow.tasks:
        twin.add_task(task)
    twin.double().load_state_dict(flow.state_dict())
    return twin


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("task", [0, 1])
def test_flow_equals_the_literal_method(switches: dict[str, bool], task: int) -> None:
    flow = awake_flow(**switches)
    twin = literal_twin(flow, **switches)
    twin.activate(task)
    features = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    expected = twin(features)
    for actual, wanted in zip(flow(features, task), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-8)


def test_literal_comparison_would_notice_another_expert() -> None:
    flow = awake_flow()
    twin = literal_twin(flow)
    twin.activate(1)
    features = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    assert not torch.allclose(flow(features, 0)[0], twin(features)[0], rtol=1e-3)


@pytest.mark.parametrize("task", [0, 1])
def test_log_det_equals_autograd_jacobian(task: int) -> None:
    flow = awake_flow(use_task_adapter=False)
    features = torch.randn(1, 1, 2, 12, dtype=torch.float64)
    _, log_det = flow(features, task)
    for place in range(2):

        def patch(x: Tensor) -> Tensor:
            return flow(x.reshape(1, 1, 1, 12), task)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(patch, features[0, 0, place])
        torch.testing.assert_close(log_det[0, 0, place], torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("task", [0, 1])
def test_inverse_of_forward_is_the_adapters_output(task: int) -> None:
    flow = awake_flow()
    features = torch.randn(2, 3, 4, 12, dtype=torch.float64)
    adapted = flow.input_adapters[str(task)](features)
    torch.testing.assert_close(
        flow.inverse(flow(features, task)[0], task), adapted, rtol=1e-6, atol=1e-6
    )


def test_inverse_of_forward_is_the_input_without_adapter() -> None:
    flow = awake_flow(use_task_adapter=False)
    features = torch.randn(2, 3, 4, 12, dtype=torch.float64)
    task = torch.tensor([1, 0])
    torch.testing.assert_close(
        flow.inverse(flow(features, task)[0], task), features, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_encode_half_runs_half_of_the_blocks_and_finish_the_others(layers: int) -> None:
    flow = awake_flow(tasks=2, coupling_layers=layers)
    features, task = torch.randn(3, 2, 4, 12, dtype=torch.float64), torch.tensor([1, 0, 1])
    halfway = flow.encode_half(features, task)
    for i, one in enumerate(task.tolist()):
        rows = flow.adapter_of(one)(features[i]).reshape(-1, 12)
        for block in list(flow.flow)[: layers // 2]:
            (rows,), _ = block((rows,), c=[one])
        torch.testing.assert_close(halfway[i].reshape(-1, 12), rows, rtol=1e-9, atol=1e-9)
    latent = flow(features, task)[0]
    torch.testing.assert_close(flow.finish(halfway, task), latent, rtol=1e-9, atol=1e-9)


def test_fresh_expert_scores_as_the_shared_flow_behind_its_adapter() -> None:
    flow = MoLESpatialAwareNF(12, coupling_layers=3, lora_rank=4)
    flow.add_task(0)
    wake(flow)
    flow.add_task(1)
    features = torch.randn(2, 3, 4, 12)
    latent, log_det = flow(features, 1)
    rows = flow.input_adapters["1"](features).reshape(-1, 12)
    shared, shared_log_det = flow.flow(rows, c=[None])
    assert torch.equal(latent.reshape(-1, 12), shared)
    assert torch.equal(log_det.flatten(), shared_log_det)


def test_mixed_batch_equals_one_by_one() -> None:
    flow = awake_flow(tasks=3)
    features = torch.randn(5, 2, 3, 12, dtype=torch.float64)
    task = torch.tensor([2, 0, 1, 0, 2])
    latent, log_det = flow(features, task)
    for i, one in enumerate(task.tolist()):
        alone, alone_log_det = flow(features[i : i + 1], one)
        torch.testing.assert_close(latent[i : i + 1], alone, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(log_det[i : i + 1], alone_log_det, rtol=1e-9, atol=1e-9)


def test_threads_score_different_products_at_once() -> None:
    flow = awake_flow(tasks=2).requires_grad_(False)
    features = torch.randn(2, 4, 4, 12, dtype=torch.float64)
    expected = [flow(features, task)[0] for task in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: flow(features, i % 2)[0], range(40)))
    for i, result in enumerate(results):
        torch.testing.assert_close(result, expected[i % 2])


def expert_keys(flow: MoLESpatialAwareNF, task: int) -> set[str]:
    expert = {id(p) for p in flow.expert_parameters(task)}
    return {name for name, p in flow.named_parameters() if id(p) in expert}


def train(flow: MoLESpatialAwareNF, task: int, features: Tensor, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(flow.parameters_for(task), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        patch_nll(*flow(features, task)).mean().backward()
        optimizer.step()


def test_training_task_1_leaves_task_0_bit_equal_at_real_size() -> None:
    flow = MoLESpatialAwareNF(384)
    features = torch.randn(2, 8, 8, 384)
    flow.add_task(0)
    train(flow, 0, features)
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    with torch.no_grad():
        scores = quantile_score(patch_nll(*flow(features, 0)))
    flow.add_task(1)
    train(flow, 1, features + 1)
    after = flow.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with torch.no_grad():
        assert torch.equal(quantile_score(patch_nll(*flow(features, 0))), scores)


def test_every_parameter_of_the_current_expert_moves() -> None:
    flow = MoLESpatialAwareNF(12, coupling_layers=3, lora_rank=4)
    features = torch.randn(4, 3, 3, 12)
    for task in (0, 1):
        flow.add_task(task)
        before = {name: p.detach().clone() for name, p in flow.named_parameters()}
        train(flow, task, features)
        moved = {n for n, p in flow.named_parameters() if not torch.equal(p, before[n])}
        expected = expert_keys(flow, task)
        if task == 0:
            expected |= {n for n, _ in flow.named_parameters() if "input_adapters" not in n}
        assert moved == expected


def test_task_0_trains_the_base_and_later_tasks_their_expert_alone() -> None:
    flow = awake_flow(tasks=2)
    asking = {name for name, p in flow.named_parameters() if p.requires_grad}
    assert asking == expert_keys(flow, 1)
    base = {id(p) for p in flow.base_parameters()}
    assert base <= {id(p) for p in flow.parameters_for(0)}
    assert not base & {id(p) for p in flow.parameters_for(1)}


def test_fresh_adapter_blends_for_task_0_alone_also_when_rebuilt() -> None:
    flow = MoLESpatialAwareNF(12, coupling_layers=1)
    for task in (0, 1):
        flow.add_task(task)
    assert [flow.input_adapters[str(t)].has_reference for t in (0, 1)] == [False, True]


def test_reference_reaches_the_adapters_of_later_tasks() -> None:
    flow = MoLESpatialAwareNF(12, coupling_layers=1)
    flow.add_task(0)
    flow.set_reference(torch.arange(12.0), torch.ones(12))
    flow.add_task(1)
    assert torch.equal(flow.input_adapters["1"].reference_mean, torch.arange(12.0))


def test_state_has_the_agreed_names() -> None:
    flow = MoLESpatialAwareNF(8, coupling_layers=1)
    flow.add_task(0)
    keys = set(flow.state_dict())
    block = "flow.module_list.0."
    for layer in ("layer1", "layer2"):
        for name in ("base_linear.weight", "lora_A.0", "lora_B.0", "task_biases.0"):
            assert f"{block}subnet.{layer}.{name}" in keys
    for name in ("w_perm", "w_perm_inv", "global_scale", "global_offset"):
        assert block + name in keys
    for name in ("film_gamma", "film_beta", "residual_gate", "mlp.0.weight", "layer_norm.weight"):
        assert f"input_adapters.0.{name}" in keys


def test_half_precision_autocast_does_not_reach_the_density() -> None:
    flow = awake_flow().float()
    features = torch.randn(1, 2, 2, 12)
    expected = flow(features, 0)
    with torch.autocast("cpu", torch.bfloat16):
        actual = flow(features, 0)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("call", ["forward", "encode_half", "finish", "inverse"])
def test_unknown_task_is_an_error_that_lists_the_known(call: str, grad: bool) -> None:
    flow = awake_flow(tasks=2, use_lora=False, use_task_bias=False)
    x = torch.zeros(2, 1, 1, 12, dtype=torch.float64)
    message = r"task 7: the flow has \[0, 1\]"
    for task in (7, torch.tensor([0, 7])):
        with torch.set_grad_enabled(grad), pytest.raises(KeyError, match=message):
            getattr(flow, call)(x, task)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("tasks", [[0], [0, 1], [0, 0, 1, 1, 1], []])
def test_tasks_that_are_not_as_many_as_the_images_are_refused(tasks: list[int], grad: bool) -> None:
    flow = awake_flow(tasks=2)
    x = torch.zeros(4, 1, 1, 12, dtype=torch.float64)
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match="each of 4 images a task"):
        flow(x, torch.tensor(tasks, dtype=torch.long))


def test_a_task_is_added_once() -> None:
    flow = awake_flow(tasks=1)
    with pytest.raises(ValueError, match="task 0 already has an expert"):
        flow.add_task(0)


def test_whole_path_with_whitening_is_invertible_and_its_log_det_is_autograds() -> None:
    flow = awake_flow(adapter="whitening")
    for task in flow.tasks:
        statistics = FeatureStatistics(12)
        mix = torch.randn(12, 12, dtype=torch.float64) + 3 * torch.eye(12)
        statistics.update(torch.randn(500, 12, dtype=torch.float64) @ mix * (1 + task) + 5)
        flow.adapter_of(task).fit(statistics)
    features = torch.randn(2, 3, 4, 12, dtype=torch.float64) + 5
    tasks = torch.tensor([1, 0])
    latent, log_det = flow(features, tasks)
    torch.testing.assert_close(flow.inverse(latent, tasks), features, rtol=1e-5, atol=1e-5)

    def patch(row: Tensor) -> Tensor:
        return flow(row.reshape(1, 1, 1, 12), 1)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(patch, features[0, 1, 2])
    torch.testing.assert_close(log_det[0, 1, 2], torch.linalg.slogdet(jacobian).logabsdet)
