import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor

from moleflow_pl.metrics.image import auroc, average_precision, f1_max


def draw(offset: float, ties: bool) -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, 2, (500,))
    scores = torch.randn(500) + labels + offset
    return (scores.round() if ties else scores), labels


@pytest.mark.parametrize("offset", [0.0, 120.0, -3000.0])
@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_ap_of_raw_scores_equal_sklearn(offset: float, ties: bool) -> None:
    scores, labels = draw(offset, ties)
    expected = roc_auc_score(labels.numpy(), scores.numpy())
    assert auroc(scores, labels) == pytest.approx(expected, abs=1e-6)
    expected = average_precision_score(labels.numpy(), scores.numpy())
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_f1_max_is_the_best_over_all_thresholds(ties: bool) -> None:
    scores, labels = (part[:150] for part in draw(120.0, ties))
    tried = {t: f1_score(labels.numpy(), (scores >= t).numpy()) for t in scores.unique().tolist()}
    best = f1_max(scores, labels)
    assert best is not None
    assert best[0] == pytest.approx(max(tried.values()), abs=1e-6)
    assert tried[best[1]] == pytest.approx(best[0], abs=1e-6)


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max])
def test_one_class_alone_has_no_metric(metric: object) -> None:
    for labels in (torch.ones(4), torch.zeros(4), torch.empty(0)):
        assert metric(torch.rand(len(labels)), labels.long()) is None  # type: ignore[operator]


def test_constant_scores_have_chance_metrics() -> None:
    scores, labels = torch.full((4,), 120.0), torch.tensor([0, 1, 0, 1])
    assert auroc(scores, labels) == 0.5
    assert average_precision(scores, labels) == 0.5
    assert f1_max(scores, labels) == (pytest.approx(2 / 3), 120.0)
