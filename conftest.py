"""Seeds every test and doctest, each on one thread."""

import os

# two workers share two cores, and the threads of tiny models would only wait for one another;
# fresh processes inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("seeded", derandomize=True, database=None, deadline=None)
settings.load_profile("seeded")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
