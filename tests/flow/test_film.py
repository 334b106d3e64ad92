import torch

from benchmarks import literal
from moleflow_pl.flow.film import TaskInputAdapter


def test_adapter_equals_the_literal_one_with_and_without_reference() -> None:
    features = torch.randn(2, 3, 4, 12, dtype=torch.float64)
    for reference in (None, torch.zeros(12)):
        adapter = TaskInputAdapter(12, reference, reference)
        oracle = literal.Adapter(12, has_reference=reference is not None)
        oracle.load_state_dict(adapter.state_dict())
        torch.testing.assert_close(adapter.double()(features), oracle.double()(features))


def test_adapter_of_the_first_task_keeps_most_of_its_input() -> None:
    features = torch.randn(1, 2, 2, 12)
    adapter = TaskInputAdapter(12)
    kept = (adapter(features) - 0.9 * features).norm() / features.norm()
    assert kept < 0.2


def test_gate_starts_half_way_and_modulation_at_identity() -> None:
    adapter = TaskInputAdapter(8)
    assert adapter.residual_gate.item() == 0.5
    assert torch.equal(adapter.film_gamma, torch.ones(1, 1, 1, 8))
    assert not adapter.film_beta.any()


def test_reference_is_kept_in_the_state() -> None:
    adapter = TaskInputAdapter(4, torch.arange(4.0), torch.ones(4))
    assert torch.equal(adapter.state_dict()["reference_mean"], torch.arange(4.0))


def test_norm_can_be_left_out() -> None:
    adapter = TaskInputAdapter(4, torch.zeros(4), torch.ones(4), use_norm=False)
    assert not any(key.startswith("layer_norm") for key in adapter.state_dict())


def test_a_loaded_adapter_has_a_reference_where_the_stored_one_had() -> None:
    first, later = TaskInputAdapter(4), TaskInputAdapter(4, torch.ones(4), 2 * torch.ones(4))
    x = torch.randn(1, 2, 2, 4)
    for adapter in (first, later):
        for made in (TaskInputAdapter(4), TaskInputAdapter(4, torch.zeros(4) + 3, torch.ones(4))):
            made.load_state_dict(adapter.state_dict())
            assert torch.equal(made(x), adapter(x))
