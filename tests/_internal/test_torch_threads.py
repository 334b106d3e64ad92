from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from moleflow_pl._internal.torch_threads import one_thread


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_come_back_after_the_block_and_after_an_error_in_it() -> None:
    with one_thread(), one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="broken"), one_thread():
        raise ValueError("broken")
    assert torch.get_num_threads() == 2


def limits(_: int) -> tuple[int, int]:
    """Threads within a block and after it."""
    with one_thread():
        within = torch.get_num_threads()
    return within, torch.get_num_threads()


def test_blocks_of_many_threads_restore_what_each_thread_had() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(limits, range(200))) == {(1, 2)}
    assert torch.get_num_threads() == 2
