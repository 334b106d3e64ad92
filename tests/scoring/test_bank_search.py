import numpy as np
import pytest
import torch

from moleflow_pl.scoring import bank_search
from moleflow_pl.scoring.bank_search import (
    BankVectors,
    nearest_places,
    projection_distance,
    projection_range,
)
from moleflow_pl.scoring.memory_bank import MemoryBank
from tests.helpers.oracles import literal_distances


def filled(size: int, channels: int = 8) -> MemoryBank:
    """A bank of random vectors."""
    bank = MemoryBank(channels, size)
    bank.fill(torch.randn(2 * size, channels), torch.Generator().manual_seed(0))
    return bank


def searched(bank: MemoryBank) -> BankVectors:
    """What latents are compared with in a bank."""
    return BankVectors(bank.values, bank.factors)


@pytest.mark.parametrize("size", [3, 20])
def test_distance_is_that_to_the_literal_projection(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_search, "CPU_ROWS", 7)  # an image has more rows than go at once
    bank, images = filled(size), torch.randn(2, 5, 6, 8)
    expected = [
        literal_distances(image.flatten(0, 1).double().numpy(), bank.vectors.double().numpy())
        for image in images
    ]
    found = projection_distance(images, searched(bank))
    np.testing.assert_allclose(found.flatten(1), expected, rtol=1e-4)


@pytest.mark.parametrize("vectors", [3, 64, 100, 1024])
@pytest.mark.parametrize("size", [1, 4, 5, 63, 200, 333])
def test_the_nearest_are_exactly_those_of_all_distances(
    size: int, vectors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_search, "CPU_ROWS", 7)
    monkeypatch.setattr(bank_search, "CPU_VECTORS", vectors)
    bank, rows = torch.randn(size, 8), torch.randn(30, 8)
    expected = torch.cdist(rows.double(), bank.double()).topk(min(5, size), largest=False).indices
    assert torch.equal(nearest_places(rows, BankVectors(bank)), expected)


def test_a_bank_is_searched_in_the_bytes_that_it_stores() -> None:
    bank = filled(9)
    found = searched(bank)
    assert found.values is bank.values
    assert sum(tensor.nbytes for tensor in vars(found).values() if tensor is not None) == 9 * 16
    latents = torch.randn(2, 3, 3, 8)
    plain = projection_distance(latents, BankVectors(bank.vectors))
    assert torch.equal(projection_distance(latents, found), plain)


def test_further_channels_count_as_the_others() -> None:
    bank, derived = filled(9), torch.randn(9, 3).half()
    found = BankVectors(bank.values, bank.factors, derived)
    whole = torch.cat((bank.vectors, derived.float()), 1)
    assert torch.equal(found[:], whole)
    latents = torch.randn(2, 3, 3, 11)
    plain = projection_distance(latents, BankVectors(whole))
    assert torch.equal(projection_distance(latents, found), plain)


def test_a_bank_of_some_vectors_holds_those() -> None:
    bank = filled(9)
    found = BankVectors(bank.values, bank.factors, torch.randn(9, 3).half())
    some = torch.arange(9) % 2 == 0
    assert torch.equal(found.only(some)[:], found[:][some])
    assert torch.equal(found.only(some).squares, found.squares[some])


def test_distance_does_not_depend_on_the_batch() -> None:
    bank, images = BankVectors(torch.randn(20, 8)), torch.randn(3, 4, 4, 8)
    together = projection_distance(images, bank)
    for image, distances in zip(images, together, strict=True):
        assert torch.equal(projection_distance(image[None], bank)[0], distances)


def test_latents_in_the_bank_have_a_finite_distance() -> None:
    rows = torch.randn(6, 8)
    distances = projection_distance(rows.reshape(1, 2, 3, 8), BankVectors(rows))
    assert distances.isfinite().all()
    same = projection_distance(torch.ones(1, 2, 2, 3), BankVectors(torch.ones(9, 3)))
    assert same.abs().max() < 1e-5


def test_a_defect_in_an_image_that_is_in_the_bank_keeps_its_distance() -> None:
    # most squared distances are 0, and so is their median
    image = torch.zeros(1, 4, 4, 3)
    image[0, 0, 0] = torch.tensor([3.0, 4.0, 0.0])
    distances = projection_distance(image, BankVectors(torch.zeros(9, 3)))
    assert distances[0, 0, 0].item() == 5.0
    assert distances.sum().item() == 5.0


def test_no_image_has_no_distances() -> None:
    bank = BankVectors(torch.randn(9, 8))
    assert projection_distance(torch.empty(0, 4, 5, 8), bank).shape == (0, 4, 5)


def test_a_tie_has_a_range_where_it_decides() -> None:
    near = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    rows = torch.zeros(1, 1, 1, 1)
    for others, tied in (
        ([[0.5], [-0.5]], True),  # the fifth and the sixth
        ([[0.5], [-0.5], [0.45]], False),  # the sixth and the seventh
        ([[0.5], [0.5]], False),  # either gives the same
        ([[0.5], [0.51]], False),
        ([[0.5]], False),
        ([], False),
    ):
        bank = BankVectors(torch.cat((near, torch.tensor(others).reshape(-1, 1))))
        least, largest = projection_range(rows, bank)
        assert (largest > least + 1e-3).tolist() == [[[tied]]], others
        if not tied:
            plain = projection_distance(rows, bank)
            assert torch.equal(least, plain)
            assert torch.equal(largest, plain)


def test_rounding_chooses_between_the_ends_of_the_range() -> None:
    bank = BankVectors(torch.tensor([[0.1], [0.2], [0.3], [0.4], [0.5], [-0.5]]))
    least, largest = projection_range(torch.zeros(1, 1, 1, 1), bank)
    moved = [projection_distance(torch.full((1, 1, 1, 1), x), bank) for x in (1e-6, -1e-6)]
    torch.testing.assert_close(sorted(moved), [least, largest], atol=1e-5, rtol=0)
