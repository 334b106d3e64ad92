import pytest
import torch
from sklearn.metrics import roc_auc_score

from moleflow_pl.metrics import auroc, average, backward_transfer, forgetting, mean_of


@pytest.mark.parametrize("offset", [0.0, 120.0, -3000.0])
@pytest.mark.parametrize("ties", [False, True])
def test_auroc_of_raw_scores_equals_sklearn(offset: float, ties: bool) -> None:
    labels = torch.randint(0, 2, (500,))
    scores = torch.randn(500) + labels + offset
    scores = scores.round() if ties else scores
    expected = roc_auc_score(labels.numpy(), scores.numpy())
    assert auroc(scores, labels) == pytest.approx(expected, abs=1e-6)


def test_auroc_of_one_class_is_none_and_of_constant_scores_half() -> None:
    assert auroc(torch.rand(4), torch.ones(4)) is None
    assert auroc(torch.full((4,), 120.0), torch.tensor([0, 1, 0, 1])) == 0.5


def test_auroc_takes_maps_and_boolean_masks() -> None:
    maps, masks = torch.rand(3, 8, 8) + 100, torch.rand(3, 8, 8) > 0.7
    expected = roc_auc_score(masks.flatten().numpy(), maps.flatten().numpy())
    assert auroc(maps, masks) == pytest.approx(expected, abs=1e-6)


MATRIX = [[0.9, None, None], [0.95, 0.8, None], [0.7, 0.85, 0.6]]


def test_matrix_numbers_follow_their_formulas() -> None:
    assert average(MATRIX) == pytest.approx((0.7 + 0.85 + 0.6) / 3)
    assert forgetting(MATRIX) == pytest.approx(((0.95 - 0.7) + (0.8 - 0.85)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.7 - 0.9) + (0.85 - 0.8)) / 2)


def test_what_was_not_measured_is_left_out() -> None:
    matrix = [[0.9, None, None], [None, 0.8, None], [None, 0.7, 0.6]]
    assert average(matrix) == pytest.approx(0.65)
    assert forgetting(matrix) == pytest.approx(0.1)
    assert backward_transfer(matrix) == pytest.approx(-0.1)


def test_one_task_forgets_nothing_and_nothing_is_no_zero() -> None:
    assert forgetting([[0.9]]) is None
    assert backward_transfer([[0.9]]) is None
    assert average([[None]]) is None
    assert mean_of([0.0, 0.0]) == 0.0
    assert forgetting([[0.0, None], [0.0, 0.5]]) == 0.0
