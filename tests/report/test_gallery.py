from pathlib import Path

import pytest

from moleflow_pl.report.gallery import build_gallery, select
from tests.helpers.scores import scores_on


def test_pick_takes_the_telling_images_in_order() -> None:
    rows = [{"gt_label": i % 2, "score": float(i)} for i in range(12)]
    chosen = select(rows, range(12))
    assert chosen == {
        "found best": [11, 9, 7],
        "missed worst": [1, 3, 5],
        "false alarms": [10, 8, 6],
    }
    assert select(rows, [0, 2]) == {"found best": [], "missed worst": [], "false alarms": [2, 0]}


def test_every_product_has_its_wall_and_its_scale(data_root: Path) -> None:
    gallery = build_gallery(scores_on(data_root, ["b", "c"]), ["b+c", "other"])
    assert [product_page.product for product_page in gallery] == ["b", "c"]
    for product_page in gallery:
        assert product_page.low < product_page.high
        assert list(product_page.groups) == ["found best", "missed worst", "false alarms"]
    masks = [set(product_page.groups["found best"][0].pictures) for product_page in gallery]
    assert masks == [{"image", "heatmap", "mask"}, {"image", "heatmap"}]
    assert "sent to other" in gallery[0].groups["found best"][0].caption
    assert "sent to" not in gallery[0].groups["false alarms"][0].caption


def test_image_that_is_gone_is_left_out(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_on(data_root, ["b"])
    for row in scores.rows:
        row["path"] = str(data_root / "gone.png")
    assert build_gallery(scores, ["b"])[0].groups == {}
