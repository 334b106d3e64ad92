from pathlib import Path

import pytest

from moleflow_pl.report.gallery import build_gallery, select
from tests.helpers.scores import scores_on

FOUND, MISSED, ALARMS = (
    "defective, highest scores", "defective, lowest scores", "good, highest scores"
)  # fmt: skip


def test_select_takes_the_extreme_images_in_order() -> None:
    rows = [{"gt_label": i % 2, "score": float(i)} for i in range(12)]
    chosen = select(rows, range(12))
    assert chosen == {FOUND: [11, 9, 7], MISSED: [1, 3, 5], ALARMS: [10, 8, 6]}
    assert select(rows, [0, 2]) == {FOUND: [], MISSED: [], ALARMS: [2, 0]}


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


def test_image_that_is_gone_is_left_out(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_on(data_root, ["b"])
    for row in scores.rows:
        row["path"] = str(data_root / "gone.png")
    assert build_gallery(scores, ["b"])[0].groups == {}
