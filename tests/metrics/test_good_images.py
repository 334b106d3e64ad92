import pytest
import torch

from moleflow_pl.metrics.good_images import compare_halves, second_halves


@pytest.mark.parametrize("images", [8, 31, 100])
def test_halves_differ_where_the_images_changed_and_only_there(images: int) -> None:
    torch.manual_seed(images)
    features = torch.randn(images, 40)
    alike = compare_halves(features, ["a"] * images)
    features[second_halves(["a"] * images)] += 2.0
    changed = compare_halves(features, ["a"] * images)
    assert alike is not None
    assert changed is not None
    assert alike["p"] > 0.02
    assert alike["distance"] == pytest.approx(alike["by_chance"], rel=0.35)
    # of eight images every 35th division is the same one
    assert changed["p"] <= (0.06 if images == 8 else 0.001)
    assert changed["distance"] > 2 * changed["by_chance"]


def test_p_is_uniform_where_nothing_changed() -> None:
    generator = torch.Generator().manual_seed(0)
    ps = []
    for _ in range(60):
        found = compare_halves(torch.randn(20, 5, generator=generator), ["a"] * 20)
        assert found is not None
        ps.append(found["p"])
    assert 0.35 < sum(ps) / len(ps) < 0.65


def test_products_of_a_group_are_compared_with_themselves_alone() -> None:
    torch.manual_seed(0)
    features, products = torch.randn(40, 6), ["a"] * 20 + ["b"] * 20
    features[20:] += 50.0  # another product, not a change
    found = compare_halves(features, products)
    assert found is not None
    assert found["p"] > 0.02


def test_comparison_leaves_the_features_as_they_are_and_says_the_same_again() -> None:
    features = torch.arange(24, dtype=torch.float64).reshape(8, 3)
    before = features.clone()
    assert compare_halves(features, ["a"] * 8) == compare_halves(features, ["a"] * 8)
    assert torch.equal(features, before)


def test_too_few_images_have_no_halves_and_equal_ones_do_not_differ() -> None:
    assert compare_halves(torch.randn(3, 5), ["a"] * 3) is None
    assert compare_halves(torch.randn(4, 5), list("abcd")) is None
    equal = compare_halves(torch.ones(8, 5), ["a"] * 8)
    assert equal is not None
    assert equal["p"] == 1.0
