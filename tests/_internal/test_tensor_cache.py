import copy
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl._internal.torch_compat import write_count
from moleflow_pl.flow.scoring_pass import ScoringPass


def test_cache_keeps_the_experts_used_last() -> None:
    built: list[int] = []

    def build(task: int) -> ScoringPass:
        built.append(task)
        return ScoringPass([])

    cache = TensorCache(build, size=2)
    weights = [nn.Parameter(torch.zeros(1))]
    for task in (0, 1, 0, 2, 0, 1):
        cache.get(task, weights)
    assert built == [0, 1, 2, 1]


def test_a_new_tensor_at_a_reused_address_is_not_cached() -> None:
    built: list[int] = []
    cache = TensorCache(built.append)
    one = torch.zeros(3)
    other = one.view(3)
    assert (one.data_ptr(), write_count(one)) == (other.data_ptr(), write_count(other))
    for tensor in (one, one, other):
        cache.get(0, [tensor])
    assert len(built) == 2


class Slow:
    """A value whose end lets other threads run, like that of a tensor."""

    def __init__(self, key: int) -> None:
        self.key = key
        time.sleep(0)

    def __del__(self) -> None:
        time.sleep(0)


def test_threads_share_a_cache_that_is_too_small_for_all() -> None:
    cache = TensorCache(Slow, size=2)
    keys = [key for _ in range(1_000) for key in range(5)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: cache.get(key, ()).key, keys))
    assert found == keys


def test_a_copy_of_a_cache_begins_empty() -> None:
    cache = TensorCache(lambda key: [key], size=1)
    value, other = cache.get(0, ()), copy.deepcopy(cache)
    assert other.get(0, ()) is not value
    assert other.get(0, ()) is other.get(0, ())
