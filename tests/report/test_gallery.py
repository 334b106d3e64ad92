import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl import Prediction, draw_heatmap
from moleflow_pl.data.images import open_content
from moleflow_pl.report.gallery import SuspectImage, build_gallery, select, suspect_examples
from moleflow_pl.scoring.guided_map import guides_of
from moleflow_pl.tasks.calibration import Limits
from tests.helpers.scores import scores_on

FOUND, MISSED, ALARMS = (
    "defective, highest scores", "defective, lowest scores", "good, highest scores"
)  # fmt: skip
NONE_MISSED = "missed, labelled normal: none of 6 defective images"


def rows_of(labels: list[str | None]) -> list[dict]:
    """Images with these labels and rising scores; every second one is defective."""
    return [
        {"gt_label": i % 2, "score": float(i), "label": label} for i, label in enumerate(labels)
    ]


def test_without_labels_select_takes_the_extreme_images_in_order() -> None:
    rows = rows_of([None] * 12)
    chosen = select(rows, range(12))
    assert chosen == {FOUND: [11, 9, 7], MISSED: [1, 3, 5], ALARMS: [10, 8, 6]}
    assert select(rows, [0, 2]) == {FOUND: [], MISSED: [], ALARMS: [2, 0]}


def test_groups_are_by_the_label_and_say_where_there_are_none() -> None:
    rows = rows_of(["normal"] * 5 + ["anomalous"] * 7)
    assert select(rows, range(12)) == {
        "found, labelled anomalous: 4 of 6 defective images": [11, 9, 7],
        "missed, labelled normal: 2 of 6 defective images": [1, 3],
        "false alarms, labelled anomalous: 3 of 6 good images": [10, 8, 6],
        "labelled unknown product: none of 12 images": [],
    }
    rows[1]["label"], rows[3]["label"] = "anomalous", "unknown_product"
    chosen = select(rows, range(12))
    assert chosen[NONE_MISSED] == []
    assert chosen["labelled unknown product: 1 of 12 images"] == [3]


def test_a_group_without_images_keeps_its_title(data_root: Path) -> None:
    (page,) = build_gallery(scores_on(data_root, ["b"], threshold=0.5), ["b", "other"])
    counts = {title: len(examples) for title, examples in page.groups.items()}
    assert counts == {
        "found, labelled anomalous: 3 of 3 defective images": 3,
        "missed, labelled normal: none of 3 defective images": 0,
        "false alarms, labelled anomalous: none of 3 good images": 0,
        "labelled unknown product: none of 6 images": 0,
    }
    example = page.groups["found, labelled anomalous: 3 of 3 defective images"][0]
    assert "(threshold 0.5)" in example.caption


def test_every_product_has_its_page_and_its_scale(data_root: Path) -> None:
    gallery = build_gallery(scores_on(data_root, ["b", "c"]), ["b+c", "other"])
    assert [page.product for page in gallery] == ["b", "c"]
    for page in gallery:
        assert page.low < page.high
        assert list(page.groups) == [FOUND, MISSED, ALARMS]
    masks = [set(page.groups[FOUND][0].pictures) for page in gallery]
    assert masks == [{"image", "heatmap", "mask"}, {"image", "heatmap"}]
    assert "routed to other" in gallery[0].groups[FOUND][0].caption
    assert "routed to" not in gallery[0].groups[ALARMS][0].caption


def test_captions_tell_a_score_from_a_threshold_that_looks_the_same(data_root: Path) -> None:
    scores = scores_on(data_root, ["b"], threshold=2.9)
    for row in scores.rows:
        row["score"] = 2.9000001
    (page,) = build_gallery(scores, ["b", "other"])
    captions = [one.caption for examples in page.groups.values() for one in examples]
    assert captions
    assert all("score 2.9000001 (threshold 2.9)" in caption for caption in captions)


def test_good_images_are_shown_by_kind_and_by_whether_they_look_defective(
    data_root: Path,
) -> None:
    path = str(data_root / "b" / "train" / "good" / "000.png")
    limits = Limits(score=2.9, median_score=1.0, pixel=2.0, median_patch_score=1.0)
    rest = (path, "000.png", "b", 3.0, limits, torch.zeros(12, 12))
    shown = suspect_examples(
        [
            SuspectImage("calibration", True, *rest),
            SuspectImage("calibration", False, *rest),
            SuspectImage("training", False, *rest),
        ]
    )
    assert {title: len(examples) for title, examples in shown["b"].items()} == {
        "calibration images, highest scores: look defective": 1,
        "calibration images, highest scores: none of these stands out": 1,
        "training images, highest scores: none of these stands out": 1,
    }


def test_good_image_without_patch_scores_is_shown_and_says_where_its_heatmap_is(
    data_root: Path,
) -> None:
    path = str(data_root / "b" / "train" / "good" / "000.png")
    limits = Limits(score=2.9, median_score=1.0, pixel=2.0, median_patch_score=1.0)
    suspect = SuspectImage("training", True, path, "000.png", "b", 3.0, limits, None)
    ((example,),) = suspect_examples([suspect])["b"].values()
    assert set(example.pictures) == {"image"}
    assert "only the report of the fit has its heatmap" in example.caption


def test_heatmap_follows_the_image_as_that_of_predict_does(tmp_path: Path) -> None:
    pixels = np.full((96, 96, 3), 60, np.uint8)
    pixels[:, 53:] = 220  # not where a patch ends
    Image.fromarray(pixels).save(tmp_path / "a.png")
    patches = torch.zeros(12, 12)
    patches[:, 7:] = 8.0
    limits = Limits(score=2.9, median_score=1.0, pixel=4.0, median_patch_score=0.0)
    suspect = SuspectImage(
        "training", True, str(tmp_path / "a.png"), "a.png", "b", 3.0, limits, patches
    )
    ((example,),) = suspect_examples([suspect])["b"].values()
    drawn = open_content(base64.b64decode(example.pictures["heatmap"].partition(",")[2]))

    channels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    predicted = Prediction(
        "b", 3.0, 0.0, None, patches, (96, 96), "anomalous", pixel_threshold=4.0,
        median_patch_score=0.0, guide=guides_of(channels, (12, 12))[0],
    )  # fmt: skip
    wanted = np.asarray(draw_heatmap(pixels, predicted)).astype(int)
    assert abs(np.asarray(drawn).astype(int) - wanted).mean() < 2  # a JPEG
    plain = np.asarray(draw_heatmap(pixels, replace(predicted, guide=None))).astype(int)
    assert abs(np.asarray(drawn).astype(int) - plain).mean() > 3


def test_image_that_is_gone_is_left_out(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_on(data_root, ["b"])
    for row in scores.rows:
        row["path"] = str(data_root / "gone.png")
    assert build_gallery(scores, ["b"])[0].groups == {}
