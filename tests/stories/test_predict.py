"""Which images `predict` takes and keeps, whatever happens to their files."""

import csv
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image

from moleflow_pl import MoLEFlow
from moleflow_pl.callbacks import PredictionWriter
from moleflow_pl.scoring.guided_map import pixel_map
from tests.helpers.predicting import LazyLoader, PowerFailedError, copied, predict, rows


@pytest.fixture(scope="module")
def model(learned: tuple[Path, MoLEFlow]) -> MoLEFlow:
    return MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")


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
    assert "removed 4 earlier rows: their images have changed or are gone" in caplog.text
    found = rows(tmp_path / "predictions" / "predictions.csv")
    assert [Path(row["path"]).name for row in found] == [f"{i}.png" for i in range(1, 6)]
    assert {row["label"] for row in found} <= {"anomalous", "unknown_product"}


def test_pictures_go_with_the_rows_of_their_images_and_no_other_file_does(
    model: MoLEFlow, tmp_path: Path, data_root: Path
) -> None:
    folder, written = tmp_path / "in", tmp_path / "predictions"
    copied(data_root, folder)
    copied(data_root, folder / "a")
    given = {"maps": "npy", "masks": True}
    with pytest.raises(PowerFailedError):
        predict(tmp_path, model, folder, stop_after=9, **given)
    (written / "heatmaps" / "a" / "mine.jpg").touch()
    assert (written / "masks" / "a" / "2.png").exists()
    # with a row, with the last row, with pictures alone, with nothing yet
    for name in ("0.png", "a/1.png", "a/2.png", "a/5.png"):
        (folder / name).unlink()
    predict(tmp_path, model, folder, **given)
    names = [*map(str, range(1, 6)), "a/0", "a/3", "a/4"]
    for kind, suffix, mine in (("heatmaps", "jpg", ["a/mine.jpg"]), ("maps", "npy", []),
                               ("masks", "png", [])):  # fmt: skip
        found = {str(p.relative_to(written / kind)) for p in (written / kind).rglob("*.*")}
        assert found == {*(f"{name}.{suffix}" for name in names), *mine}


@pytest.mark.parametrize("first", [0, 1])
def test_an_image_beside_a_folder_with_the_name_of_its_picture_gets_another_name(
    first: int, model: MoLEFlow, tmp_path: Path, data_root: Path
) -> None:
    image = data_root / "b" / "test" / "good" / "000.png"
    folder, written = tmp_path / "in", tmp_path / "predictions"
    parts = [["x.png/a.png", "x.tiff/a.png", "x.tiff/b.png"], ["x.bmp", "z.bmp"]]
    # the second time, what was written the first time is in the way
    for names in (parts[first], parts[1 - first]):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder / name)
        predict(tmp_path, model, folder, heatmaps="png", maps="tiff", masks=True)
        unfinished(written)
    assert len(rows(written / "predictions.csv")) == 5
    assert not (tmp_path / "predictions~1").exists()
    for kind in ("heatmaps", "maps", "masks"):
        assert sum(path.is_file() for path in (written / kind).rglob("*")) == 5


def unfinished(folder: Path) -> None:
    """Make a predict one that was stopped."""
    state = json.loads((folder / "run.json").read_text("utf-8"))
    (folder / "run.json").write_text(json.dumps({**state, "complete": False}), "utf-8")


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
    assert "resuming after 4 images" in caplog.text
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
    assert f"left out 1 hidden files and output of `predict` in {tmp_path}" in caplog.text


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

    def watching(*arguments: object) -> torch.Tensor:
        nonlocal most
        scores = pixel_map(*arguments)  # type: ignore[arg-type]
        alive.append(weakref.ref(scores))
        most = max(most, sum(one() is not None for one in alive))
        return scores

    monkeypatch.setattr("moleflow_pl.inference.decisions.pixel_map", watching)
    predict(tmp_path, model, folder, maps="npy", boxes=True)
    assert len(alive) == 16
    assert most == 1
