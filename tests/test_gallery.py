from pathlib import Path

import pytest
import torch

from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.layouts import MVTecLayout
from moleflow_pl.evaluation import EvaluationOptions, TaskScores
from moleflow_pl.gallery import hang, pick


def scores_on(root: Path, products: list[str]) -> TaskScores:
    """Scores of the test images of products; the map of a defective one is high in its square."""
    records = [record for product in products for record in MVTecLayout(root).test(product)]
    dataset = ImageDataset(records, 0, (48, 48), masks=True)
    batch = dataset.collate([dataset[i] for i in range(len(records))])
    labels = batch["gt_label"]
    maps = torch.zeros(len(records), 12, 12)
    maps[:, 3:6, 4:7] = (
        labels[:, None, None].float() * torch.arange(1.0, len(records) + 1)[:, None, None]
    )
    output = {
        "routed_task": torch.where(labels.bool(), 1, 0),
        "router_distance": torch.ones(len(records)),
        "distances": torch.ones(len(records), 2),
        "routed_score": maps.amax((1, 2)),
        "oracle_score": maps.amax((1, 2)),
        "routed_map": maps,
        "oracle_map": maps,
    }
    scores = TaskScores(0, EvaluationOptions(map_size=48, blur_sigma=0.0))
    scores.update(batch, output)
    return scores


def test_pick_takes_the_telling_images_in_order() -> None:
    rows = [{"gt_label": i % 2, "score": float(i)} for i in range(12)]
    chosen = pick(rows, range(12))
    assert chosen == {
        "found best": [11, 9, 7],
        "missed worst": [1, 3, 5],
        "false alarms": [10, 8, 6],
    }
    assert pick(rows, [0, 2]) == {"found best": [], "missed worst": [], "false alarms": [2, 0]}


def test_every_product_has_its_wall_and_its_scale(data_root: Path) -> None:
    walls = hang(scores_on(data_root, ["b", "c"]), ["b+c", "other"])
    assert [wall.product for wall in walls] == ["b", "c"]
    for wall in walls:
        assert wall.low < wall.high
        assert list(wall.groups) == ["found best", "missed worst", "false alarms"]
    masks = [set(wall.groups["found best"][0].pictures) for wall in walls]
    assert masks == [{"image", "heatmap", "mask"}, {"image", "heatmap"}]
    assert "sent to other" in walls[0].groups["found best"][0].caption
    assert "sent to" not in walls[0].groups["false alarms"][0].caption


def test_image_that_is_gone_is_left_out(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_on(data_root, ["b"])
    for row in scores.rows:
        row["path"] = str(data_root / "gone.png")
    assert hang(scores, ["b"])[0].groups == {}
