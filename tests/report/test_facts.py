import sys
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.report.facts import about, cost, peak_memory_mb


def test_cost_counts_the_parameters(learned: tuple[Path, MoLEFlow]) -> None:
    module = learned[1]
    numbers = cost(module.inspector, 2)
    state = module.inspector.flow.state_dict()
    shared = [
        tensor.numel()
        for name, tensor in state.items()
        if ("base_linear" in name or "global_" in name or name.endswith("w_perm"))
    ]
    assert numbers["shared_parameters"] == sum(shared)
    dim = 64
    expert = sum(p.numel() for p in module.inspector.flow.expert_parameters(1))
    # of the router's regions, and of what is typical
    prototypes = (16 * dim + dim * dim + 1) + (dim + dim * dim + 1)
    assert numbers["parameters_per_task"] == [expert + prototypes] * 2
    assert numbers["peak_memory_mb"] > 10


def test_peak_memory_is_in_megabytes_or_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10 < peak_memory_mb() < 1e5
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_mb() is None


def test_facts_name_seed_backbone_and_images(learned: tuple[Path, MoLEFlow]) -> None:
    facts = about(learned[1].inspector, 2, seed=7, config="x: 1")
    assert facts["config"] == "x: 1"
    assert facts["facts"]["seed"] == "7"
    assert facts["facts"]["backbone"].startswith("test_vit, layers [0, 1], images [48, 48]")
    assert {"images of 01", "images of b"} < set(facts["facts"])
