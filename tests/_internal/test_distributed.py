from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from moleflow_pl._internal.distributed import (
    all_gather_rows,
    average,
    gather,
    interleave,
    is_first,
    rank_and_world,
)
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.flow.losses import LOSSES
from tests.helpers.processes import join

ROWS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
SHARES = (ROWS[:5], ROWS[5:], ROWS[:0])


def tell(rank: int, folder: Path) -> None:
    """What one of three processes finds out."""
    join(rank, len(SHARES), folder)
    own = SHARES[rank]
    learned = {}
    for name, loss in LOSSES.items():
        weight = torch.ones(3, requires_grad=True)
        value = loss(all_gather_rows((own * weight).square()))
        (value * len(SHARES)).backward()
        learned[name] = (value.detach(), average(weight.grad))
    statistics = FeatureStatistics(3)
    statistics.update(own)
    merged = statistics.gathered()
    assert rank_and_world() == (rank, len(SHARES))
    assert is_first() == (rank == 0)
    result = {
        "names": gather(f"rank {rank}"),
        "learned": learned,
        "average": average(torch.tensor(float(rank))),
        "merged": [merged.mean, merged.covariance],
    }
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_unequal_shares_of_three_processes_add_up_to_those_of_one(tmp_path: Path) -> None:
    mp.spawn(tell, (tmp_path,), nprocs=len(SHARES))
    for rank in range(len(SHARES)):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["names"] == ["rank 0", "rank 1", "rank 2"]
        assert result["average"] == 1
        for name, loss in LOSSES.items():
            weight = torch.ones(3, requires_grad=True)
            value = loss((ROWS * weight).square())
            value.backward()
            torch.testing.assert_close(result["learned"][name], (value.detach(), weight.grad))
        mean, covariance = result["merged"]
        np.testing.assert_allclose(mean, ROWS.double().mean(0))
        np.testing.assert_allclose(covariance, np.cov(ROWS.double().numpy().T))


def test_one_process_gathers_its_own_value() -> None:
    assert (rank_and_world(), is_first(), gather(1)) == ((0, 1), True, [1])
    assert all_gather_rows(ROWS) is ROWS
    assert average(ROWS.mean()) == ROWS.mean()
    assert interleave([[1, 2]]) == [1, 2]
