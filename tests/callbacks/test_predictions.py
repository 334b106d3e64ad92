import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import PredictionWriter
from moleflow_pl.callbacks.predictions import COLUMNS
from moleflow_pl.errors import ConfigError
from tests.helpers.predicting import PowerFailedError, predict, rows
from tests.helpers.products import draw_product

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def model(learned: tuple[Path, MoLEFlow]) -> MoLEFlow:
    return MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")


def test_a_row_for_every_image_with_decision_and_margin(
    model: MoLEFlow, learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    predict(tmp_path, model, data_root / "b" / "test")
    found = rows(tmp_path / "predictions" / "predictions.csv")
    assert tuple(found[0]) == COLUMNS
    assert COLUMNS[:7] == (
        "path", "product", "router_distance", "router_margin", "score", "threshold", "label",
    )  # fmt: skip
    assert len(found) == 6
    assert {row["product"] for row in found} == {"b"}
    with (learned[0] / "report" / "scores.csv").open() as file:
        tested = {Path(r["path"]): float(r["score"]) for r in csv.DictReader(file)}
    calibration = model.schedule.tasks[1].calibration
    assert calibration is not None
    for row in found:
        score, threshold = float(row["score"]), float(row["threshold"])
        assert float(row["router_margin"]) >= 0
        assert score == pytest.approx(tested[Path(row["path"])], rel=1e-5)
        assert threshold == calibration.score_threshold.value
        assert (float(row["normalised_score"]) > 0.5) == (score > threshold)
        unknown = float(row["novelty_ratio"]) > 1
        known_label = "anomalous" if score > threshold else "normal"
        assert row["label"] == ("unknown_product" if unknown else known_label)


def test_an_unknown_product_is_called_so_and_a_forced_one_is_not(
    model: MoLEFlow, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    predict(tmp_path, model, tmp_path / "noise.png")
    (row,) = rows(tmp_path / "predictions" / "predictions.csv")
    assert row["label"] == "unknown_product"
    predict(tmp_path, model, tmp_path / "noise.png", product="b")
    (row,) = rows(tmp_path / "predictions" / "predictions.csv")
    assert (row["product"], row["label"]) == ("b", "anomalous")
    assert row["router_margin"] == ""
    with torch.no_grad():
        image = torch.from_numpy(noise).permute(2, 0, 1)[None]
        expected = model.inspector.inspect(model.inspector.extractor(image), 1)
    assert float(row["score"]) == pytest.approx(expected.score.item(), rel=1e-5)
    assert float(row["router_distance"]) == pytest.approx(expected.distances[0, 1].item())
    # other options: the first predictions are kept
    (old,) = rows(tmp_path / "predictions~1" / "predictions.csv")
    assert old["label"] == "unknown_product"
    assert model.predicted_task is None


def test_a_wrong_name_lists_the_right_ones_and_changes_nothing(
    model: MoLEFlow, tmp_path: Path, data_root: Path
) -> None:
    predict(tmp_path, model, data_root / "b" / "test" / "good")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"no product 'x' in this model: it knows \['01', 'b'\]"):
        predict(tmp_path, model, data_root / "b" / "test", product="x")
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_maps_and_boxes_are_written_beside_the_rows(
    model: MoLEFlow, tmp_path: Path
) -> None:
    draw_product(tmp_path / "in", "b", 1)
    large = Image.open(tmp_path / "in/b/test/square/000.png").resize((96, 72))
    large.save(tmp_path / "in/b/test/square/000.png")
    good = tmp_path / "in/b/test/good"
    shutil.copy(good / "001.png", good / "001.bmp")
    given = {"maps": "tiff", "masks": True, "boxes": True, "heatmaps": "png"}
    predict(tmp_path, model, tmp_path / "in" / "b" / "test", **given)
    folder = tmp_path / "predictions"
    names = [f"{kind}/00{i}" for kind in ("good", "square") for i in range(3)]
    # an ending tells apart what has the same name without it
    names = [name for name in names if name != "good/001"] + ["good/001.png", "good/001.bmp"]
    for kind, suffix in (("heatmaps", "png"), ("maps", "tiff"), ("masks", "png")):
        found = {str(p.relative_to(folder / kind)) for p in (folder / kind).rglob("*.*")}
        assert found == {f"{name}.{suffix}" for name in names}
    with Image.open(folder / "heatmaps/square/000.png") as image:
        assert image.format == "PNG"
    with Image.open(folder / "maps/square/000.tiff") as image:
        scores = np.asarray(image)
    with Image.open(folder / "masks/square/000.png") as image:
        mask = np.asarray(image)
    assert scores.shape == mask.shape == (72, 96)
    boxes = [row for row in rows(folder / "boxes.csv") if row["path"].endswith("square/000.png")]
    limit = float(boxes[0]["pixel_threshold"])
    outside = mask > 0
    assert outside.any()
    assert (scores[outside] > limit).all()
    for box in boxes:
        left, top = int(box["left"]), int(box["top"])
        part = (slice(top, top + int(box["height"])), slice(left, left + int(box["width"])))
        assert scores[part].max() >= float(box["peak"]) > limit
        outside[part] = False
    assert not outside.any()


def test_a_stopped_predict_goes_on_and_ends_the_same(
    model: MoLEFlow, tmp_path: Path, data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "moleflow_pl")
    images = data_root / "b" / "test"
    predict(tmp_path / "straight", model, images, boxes=True)
    with pytest.raises(PowerFailedError):
        predict(tmp_path / "stopped", model, images, stop_after=5, boxes=True)
    table = tmp_path / "stopped" / "predictions" / "predictions.csv"
    assert len(rows(table)) == 4
    with table.open("a") as file:
        file.write("torn row, with")
    predict(tmp_path / "stopped", model, images, boxes=True)
    assert "resuming after 4 images" in caplog.text
    for name in ("predictions.csv", "boxes.csv"):
        expected = rows(tmp_path / "straight" / "predictions" / name)
        assert rows(table.with_name(name)) == expected
    assert not (tmp_path / "stopped" / "predictions~1").exists()
    mark = json.loads(table.with_name("run.json").read_text())
    assert mark["complete"]


def test_other_files_are_skipped_with_a_message(
    model: MoLEFlow, tmp_path: Path, data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "moleflow_pl")
    folder = tmp_path / "in"
    folder.mkdir()
    good = (data_root / "b" / "test" / "good" / "000.png").read_bytes()
    (folder / "fine.png").write_bytes(good)
    (folder / "torn.png").write_bytes(good[:100])
    (folder / "torn2.png").write_bytes(b"")
    (folder / "notes.txt").write_text("x")
    predict(tmp_path, model, folder)
    assert "skipped 3 files that are not images" in caplog.text
    (row,) = rows(tmp_path / "predictions" / "predictions.csv")
    assert row["path"].endswith("fine.png")
    skipped = {
        Path(r["path"]).name: r["reason"] for r in rows(tmp_path / "predictions/skipped.csv")
    }
    assert set(skipped) == {"torn.png", "torn2.png", "notes.txt"}
    assert all(skipped.values())


def test_without_a_calibration_there_is_a_score_and_no_decision(
    tmp_path: Path, data_root: Path, learned: tuple[Path, MoLEFlow],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO", "moleflow_pl")
    model = MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")
    for task in model.schedule.tasks:
        task.calibration = None
    predict(tmp_path, model, data_root / "b" / "test" / "good")
    found = rows(tmp_path / "predictions" / "predictions.csv")
    assert {row["threshold"] + row["label"] + row["normalised_score"] for row in found} == {""}
    assert all(row["score"] for row in found)
    assert "no calibration images" in caplog.text


def test_a_run_without_a_limit_on_novelty_calls_nothing_unknown_and_says_so(
    tmp_path: Path, learned: tuple[Path, MoLEFlow], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "moleflow_pl")
    model = MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")
    for task in model.schedule.tasks:
        assert task.calibration is not None
        task.calibration.damaged_novelty_distances = []
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    predict(tmp_path, model, tmp_path / "noise.png")
    (row,) = rows(tmp_path / "predictions" / "predictions.csv")
    assert (row["label"], float(row["novelty_ratio"])) == ("anomalous", 0)
    assert "no image is called unknown: there is no novelty limit" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's own count")
def test_memory_of_predict_does_not_grow(model: MoLEFlow, tmp_path: Path, data_root: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = data_root / "b" / "test" / "square" / "000.png"
    for i in range(800):
        (folder / f"{i:05d}.png").hardlink_to(source)
    seen: list[int] = []

    class Watch(PredictionWriter):
        def write_on_batch_end(self, *args: object) -> None:  # type: ignore[override]
            super().write_on_batch_end(*args)  # type: ignore[arg-type]
            # pages that are resident now, not the most there ever were
            seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE)

    data = ContinualDataModule(None, ["01"], num_workers=0, predict_path=str(folder))
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False,
        callbacks=[Watch(heatmaps=False, boxes=True)],
    )  # fmt: skip
    trainer.predict(model, data, return_predictions=False)
    third = len(seen) // 3
    # images and maps of a batch are 0.25 MB: of the last 17 batches, kept, they would be 4 MB
    assert max(seen[2 * third :]) - max(seen[:third]) < 2e6
