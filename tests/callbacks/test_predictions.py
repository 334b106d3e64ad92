import csv
import json
import os
import shutil
import sys
import weakref
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
from moleflow_pl.inference.localisation import pixel_map
from tests.helpers.products import draw_product


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


PAGE = os.sysconf("SC_PAGE_SIZE")


class PowerFailedError(Exception):
    """A stop in the middle."""


def predict(run: Path, model: MoLEFlow, images: Path | str, stop_after: int | None = None,
            workers: int = 0, **options: object) -> None:  # fmt: skip
    """Predict in this process, as the command line does; perhaps stopped after some batches."""
    writer = PredictionWriter(**options)  # type: ignore[arg-type]
    if stop_after is not None:
        write = writer._write_pictures

        def fail(path: str, found: object, preview: object) -> None:
            writer.calls = getattr(writer, "calls", 0) + 1  # type: ignore[attr-defined]
            if writer.calls > stop_after:  # type: ignore[attr-defined]
                raise PowerFailedError
            write(path, found, preview)  # type: ignore[arg-type]

        writer._write_pictures = fail  # type: ignore[method-assign]
    data = ContinualDataModule(
        None, ["01"], num_workers=workers, batch_size=2, predict_path=str(images)
    )  # fmt: skip
    trainer = Trainer(
        default_root_dir=run, accelerator="cpu", logger=False, enable_progress_bar=False,
        callbacks=[writer],
    )  # fmt: skip
    trainer.predict(model, data, return_predictions=False)


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
    with pytest.raises(ConfigError, match=r"no product 'x': the model knows \['01', 'b'\]"):
        predict(tmp_path, model, data_root / "b" / "test", product="x")
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_maps_and_boxes_are_written_beside_the_rows(
    model: MoLEFlow, tmp_path: Path
) -> None:
    draw_product(tmp_path / "in", "b", 1)
    large = Image.open(tmp_path / "in/b/test/square/000.png").resize((96, 72))
    large.save(tmp_path / "in/b/test/square/000.png")
    predict(tmp_path, model, tmp_path / "in" / "b" / "test", maps="tiff", boxes=True)
    folder = tmp_path / "predictions"
    names = [f"{kind}/00{i}.png" for kind in ("good", "square") for i in range(3)]
    for kind, suffix in (("heatmaps", "jpg"), ("maps", "tiff")):
        found = {str(p.relative_to(folder / kind)) for p in (folder / kind).rglob("*.*")}
        assert found == {f"{name}.{suffix}" for name in names}
    with Image.open(folder / "maps/square/000.png.tiff") as image:
        scores = np.asarray(image)
    assert scores.shape == (72, 96)
    boxes = [row for row in rows(folder / "boxes.csv") if row["path"].endswith("square/000.png")]
    limit = float(boxes[0]["pixel_threshold"])
    outside = scores > limit
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
    assert "going on after 4 images" in caplog.text
    for name in ("predictions.csv", "boxes.csv"):
        expected = rows(tmp_path / "straight" / "predictions" / name)
        assert rows(table.with_name(name)) == expected
    assert not (tmp_path / "stopped" / "predictions~1").exists()
    mark = json.loads(table.with_name("run.json").read_text())
    assert mark["complete"]


def test_what_is_no_image_is_skipped_and_said(
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
    assert "skipped 3 files that are no images" in caplog.text
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
    assert "no image is called unknown: novelty has no limit" in caplog.text


def copied(data_root: Path, folder: Path, kind: str = "good", count: int = 6) -> Path:
    """A folder of images of one kind."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        shutil.copy(data_root / "b" / "test" / kind / f"{i % 3:03d}.png", folder / f"{i}.png")
    return folder


def test_a_stopped_predict_keeps_no_row_of_an_image_that_was_replaced_or_is_gone(
    model: MoLEFlow, tmp_path: Path, data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "moleflow_pl")
    folder = copied(data_root, tmp_path / "in")
    with pytest.raises(PowerFailedError):
        predict(tmp_path, model, folder, stop_after=5)
    copied(data_root, folder, "square")
    (folder / "0.png").unlink()
    predict(tmp_path, model, folder)
    assert "left out 3 earlier rows: their images have changed or are gone" in caplog.text
    found = rows(tmp_path / "predictions" / "predictions.csv")
    assert [Path(row["path"]).name for row in found] == [f"{i}.png" for i in range(1, 6)]
    assert {row["label"] for row in found} <= {"anomalous", "unknown_product"}


def test_a_predict_goes_on_from_another_working_directory(
    model: MoLEFlow, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO", "moleflow_pl")
    copied(data_root, tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PowerFailedError):
        predict(tmp_path / "run", model, "in", stop_after=5)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    predict(tmp_path / "run", model, "../in")
    assert "going on after 3 images" in caplog.text
    assert len(rows(tmp_path / "run" / "predictions" / "predictions.csv")) == 6


def test_a_finished_table_is_kept_and_two_folders_take_two_predictions(
    model: MoLEFlow, tmp_path: Path, data_root: Path
) -> None:
    good, square = (data_root / "b" / "test" / kind for kind in ("good", "square"))
    predict(tmp_path, model, good)
    before = (tmp_path / "predictions" / "predictions.csv").read_bytes()
    predict(tmp_path, model, good)
    assert (tmp_path / "predictions~1" / "predictions.csv").read_bytes() == before
    predict(tmp_path, model, square, folder=str(tmp_path / "elsewhere" / "b"))
    assert (tmp_path / "predictions" / "predictions.csv").read_bytes() == before
    assert len(rows(tmp_path / "elsewhere" / "b" / "predictions.csv")) == 3
    assert len(list((tmp_path / "elsewhere" / "b" / "heatmaps").iterdir())) == 3


def test_the_runs_own_pictures_and_hidden_files_are_left_out_and_said(
    model: MoLEFlow, tmp_path: Path, data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "moleflow_pl")
    copied(data_root, tmp_path / "in")
    (tmp_path / ".thumbs").mkdir()
    shutil.copy(tmp_path / "in" / "0.png", tmp_path / ".thumbs")
    predict(tmp_path, model, tmp_path)
    predict(tmp_path, model, tmp_path)
    assert len(rows(tmp_path / "predictions" / "predictions.csv")) == 6
    assert f"left out 1 hidden files and what `predict` wrote in {tmp_path}" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_vanish_or_are_half_written_are_skipped_and_listed(
    workers: int, model: MoLEFlow, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(data_root, tmp_path / "in")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:500])
    start = PredictionWriter.on_predict_start

    def vanish(self: PredictionWriter, *args: object) -> None:
        start(self, *args)  # type: ignore[arg-type]
        (folder / "4.png").unlink()

    monkeypatch.setattr(PredictionWriter, "on_predict_start", vanish)
    monkeypatch.setattr("moleflow_pl.data.datamodule.DataLoader", LazyLoader)
    predict(tmp_path, model, folder, workers=workers, maps="npy", boxes=True)
    found = rows(tmp_path / "predictions" / "predictions.csv")
    assert [Path(row["path"]).name for row in found] == ["0.png", "2.png", "3.png", "5.png"]
    skipped = rows(tmp_path / "predictions" / "skipped.csv")
    assert sorted(Path(row["path"]).name for row in skipped) == ["1.png", "4.png"]


class LazyLoader(torch.utils.data.DataLoader):
    """Reads its images no earlier than it is asked for batches."""

    def __init__(self, *args: object, **options: object) -> None:
        prefetch = {"prefetch_factor": 1} if options.get("num_workers") else {}
        super().__init__(*args, **options, **prefetch)  # type: ignore[arg-type]


def test_an_image_is_read_once_for_its_row_and_its_heatmap(
    model: MoLEFlow, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, opened = copied(data_root, tmp_path / "in"), []
    open_path = Path.open

    def counting(self: Path, *args: object, **options: object) -> object:
        opened.append(self)
        return open_path(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counting)
    predict(tmp_path, model, folder, maps="npy", boxes=True)
    images = sorted(path for path in opened if path.suffix == ".png")
    assert images == sorted(folder.iterdir())
    assert len(list((tmp_path / "predictions" / "heatmaps").iterdir())) == 6


def test_names_that_are_too_long_or_differ_by_ending_get_pictures_of_their_own(
    model: MoLEFlow, tmp_path: Path, data_root: Path
) -> None:
    (tmp_path / "in").mkdir()
    image = Image.open(data_root / "b" / "test" / "good" / "000.png")
    names = ["a.png", "a.bmp", f"{'x' * 251}.png", f"{'x' * 251}.bmp", f"{'é' * 125}y.png"]
    for name in names:
        image.save(tmp_path / "in" / name)
    predict(tmp_path, model, tmp_path / "in", maps="tiff")
    for kind, suffix in (("heatmaps", ".jpg"), ("maps", ".tiff")):
        written = [path.name for path in (tmp_path / "predictions" / kind).iterdir()]
        assert len(written) == len(names)
        assert all(name.endswith(suffix) for name in written)
        assert {f"a.png{suffix}", f"a.bmp{suffix}"} <= set(written)


def test_a_cell_of_a_table_never_begins_like_a_formula(
    model: MoLEFlow, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO", "moleflow_pl")
    source = data_root / "b" / "test" / "square" / "000.png"
    names = ["=1+1.png", "+a.png", "@b.png", "-c.png", "\td.png", "\x1b[31me.png", "f\ng.png"]
    for name in names:
        shutil.copy(source, tmp_path / name)
    (tmp_path / "=bad\x1b.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    predict(tmp_path, model, "*.png", boxes=True)
    for table in (tmp_path / "predictions").glob("*.csv"):
        text = table.read_text("utf-8")
        assert "\x1b" not in text
        with table.open(newline="", encoding="utf-8") as file:
            paths = [row["path"] for row in csv.DictReader(file)]
        assert paths
        assert not any(path.startswith(("=", "+", "-", "@", "\t")) for path in paths)
    assert "\x1b" not in caplog.text
    predicted = {row["path"] for row in rows(tmp_path / "predictions" / "predictions.csv")}
    assert "'=1+1.png" in predicted
    assert r"\x1b[31me.png" in predicted


def test_one_map_at_the_images_own_size_is_in_memory_at_a_time(
    model: MoLEFlow, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, alive, most = copied(data_root, tmp_path / "in", "square", 8), [], 0

    def watching(patches: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        nonlocal most
        scores = pixel_map(patches, size)
        alive.append(weakref.ref(scores))
        most = max(most, sum(one() is not None for one in alive))
        return scores

    monkeypatch.setattr("moleflow_pl.inference.decisions.pixel_map", watching)
    predict(tmp_path, model, folder, maps="npy", boxes=True)
    assert len(alive) == 16
    assert most == 1


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
