import torch

from moleflow_pl._internal.seeding import derive_generator, derive_seed


def test_different_purposes_have_different_random_numbers() -> None:
    seeds = {derive_seed(0, "ab", "c"), derive_seed(0, "a", "bc"), derive_seed(1, "ab", "c")}
    assert len(seeds) == 3


def test_generator_does_not_depend_on_earlier_random_numbers() -> None:
    first = torch.rand(3, generator=derive_generator(5, "x"))
    torch.rand(100)
    assert torch.equal(torch.rand(3, generator=derive_generator(5, "x")), first)
