"""Seeds every test and doctest."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("seeded", derandomize=True, database=None, deadline=None)
settings.load_profile("seeded")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
