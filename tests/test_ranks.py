import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from moleflow_pl.ranks import (
    average,
    gather,
    interleave,
    is_first,
    rank_and_world,
    share_of_mean,
    total,
)
from moleflow_pl.statistics import FeatureStatistics

ROWS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
SHARES = (ROWS[:5], ROWS[5:], ROWS[:0])
CPU = torch.device("cpu")


def tell(rank: int, folder: Path) -> None:
    """What one of three processes finds out."""
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=len(SHARES)
    )
    own = SHARES[rank]
    weight = torch.ones(3, requires_grad=True)
    share = share_of_mean((own * weight).square().mean(), len(own), total(len(own), CPU))
    share.backward()
    statistics = FeatureStatistics(3)
    statistics.update(own)
    merged = statistics.gathered()
    assert rank_and_world() == (rank, len(SHARES))
    assert is_first() == (rank == 0)
    result = {
        "names": gather(f"rank {rank}"),
        "mean": average(share.detach()),
        "gradient": average(weight.grad),
        "merged": [merged.mean, merged.covariance],
    }
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_unequal_shares_of_three_processes_add_up_to_those_of_one(tmp_path: Path) -> None:
    mp.spawn(tell, (tmp_path,), nprocs=len(SHARES))
    weight = torch.ones(3, requires_grad=True)
    loss = (ROWS * weight).square().mean()
    loss.backward()
    for rank in range(len(SHARES)):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["names"] == ["rank 0", "rank 1", "rank 2"]
        torch.testing.assert_close(result["mean"], loss.detach())
        torch.testing.assert_close(result["gradient"], weight.grad)
        mean, covariance = result["merged"]
        np.testing.assert_allclose(mean, ROWS.double().mean(0))
        np.testing.assert_allclose(covariance, np.cov(ROWS.double().numpy().T))


def test_one_process_tells_itself() -> None:
    assert (rank_and_world(), is_first(), gather(1), total(3, CPU)) == ((0, 1), True, [1], 3)
    assert torch.equal(share_of_mean(ROWS.mean(), 7, 7), ROWS.mean())
    assert average(ROWS.mean()) == ROWS.mean()
    assert interleave([[1, 2]]) == [1, 2]
