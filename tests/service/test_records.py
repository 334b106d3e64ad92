"""From predictions to rows, and back."""

import torch
from PIL import Image

from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.service.records import as_json, inspection_of, prediction_of


def a_prediction(score: float = 7.0) -> Prediction:
    scores = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 9.0]])
    return Prediction("b", score, 1.0, None, scores, (8, 12), "anomalous", 5.0, 0.7, 0.5, 6.0, 1.0)


def test_a_row_gives_the_prediction_back() -> None:
    prediction = a_prediction()
    again = prediction_of(inspection_of(prediction))
    assert again.to_dict() == prediction.to_dict()
    assert again.boxes
    assert torch.equal(again.patch_scores, prediction.patch_scores)


def test_the_map_of_a_row_follows_its_image() -> None:
    image = Image.effect_noise((60, 40), 90).convert("RGB")
    row = inspection_of(a_prediction())
    followed, plain = prediction_of(row, image), prediction_of(row)
    assert followed.guide is not None
    assert followed.guide.shape == (3, 16, 24)
    assert not torch.equal(followed.anomaly_map, plain.anomaly_map)
    assert followed.anomaly_map.shape == plain.anomaly_map.shape == (8, 12)


def test_a_score_that_is_no_number_is_kept_as_none() -> None:
    row = inspection_of(a_prediction(float("nan")))
    assert row.score is None
    assert prediction_of(row).score != prediction_of(row).score


def test_an_answer_holds_the_prediction_beside_what_is_known_of_the_image() -> None:
    row = inspection_of(a_prediction(), id=3, source="http", image_name="a.png", model="ab")
    answer = as_json(row)
    assert answer.items() >= a_prediction().to_dict().items()
    assert (answer["id"], answer["image"], answer["model"], answer["review"]) == (
        3, "a.png", "ab", None,
    )  # fmt: skip
