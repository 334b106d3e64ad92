"""On the line: from a run to decisions, by the command, on real cells."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from moleflow_pl import Predictor
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.data.layouts.elpv import ELPVLayout
from moleflow_pl.tasks.schedule import TaskSchedule
from tests.helpers.commands import MODEL, failure, moleflow, run_here
from tests.helpers.shared import built_once

PRODUCTS = ("solar_mono", "solar_poly")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def lay_out(root: Path, product: str, first: int = 0, train: int = 20) -> None:
    """Some of the package's cells as folders, good ones from number `first` on."""
    layout = ELPVLayout()
    test = layout.test(product)
    parts = {
        "train/good": [r.path for r in layout.train(product)][first : first + train],
        "test/good": [r.path for r in test if not r.gt_label][:4],
        "test/defective": [r.path for r in test if r.gt_label][:4],
    }
    for part, paths in parts.items():
        folder = root / product / part
        folder.mkdir(parents=True)
        for path in paths:
            shutil.copy(path, folder)


class Line:
    """A trained run of two products on real cells, which nothing changes."""

    def __init__(self, where: Path) -> None:
        self.data, self.run = where / "data", where / "run"
        if not self.run.exists():
            self._fit(where)
        self.path = self.run / "last.ckpt"

    def _fit(self, where: Path) -> None:
        for product in PRODUCTS:
            lay_out(self.data, product)
        flags = [f"--data.root={self.data}", f"--data.tasks={json.dumps(PRODUCTS)}", *MODEL]
        run_here(where, "fit", *flags, f"--trainer.default_root_dir={where / 'made'}")
        (where / "made").rename(self.run)  # whole or not there

    def copy_to(self, where: Path) -> Path:
        """The checkpoint of a copy of the run, to change."""
        return shutil.copytree(self.run, where / "run") / "last.ckpt"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return built_once(tmp_path_factory, "line", Line)


def oracle_scores(path: Path, images: list[Path], product: str) -> list[float]:
    return [one.score for one in Predictor.load(path, product=product)(images)]  # type: ignore[arg-type]


def images_of(line: Line) -> list[Path]:
    return sorted((line.data / "solar_mono" / "test").rglob("*.png"))


def schedule_of(path: Path) -> TaskSchedule:
    return TaskSchedule.from_state(read_checkpoint(path)["moleflow"]["tasks"])


def test_predict_decides_as_test_and_the_predictor_do(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = line.copy_to(tmp_path), tmp_path / "new"
    run = path.parent
    shutil.copytree(line.data / "solar_poly" / "test", folder)
    (folder / "readme.md").write_text("no image")
    (folder / "torn.png").write_bytes(b"no image")
    flags = ["--ckpt_path", path, f"--data.predict_path={folder}", "--predictions.maps=npy"]
    run_here(tmp_path, "predict", *flags, "--predictions.boxes=true")
    said = capsys.readouterr().out
    assert "skipped 2 files that are not images: readme.md, torn.png" in said
    found = rows(run / "predictions" / "predictions.csv")
    tested = {Path(row["path"]).name: row for row in rows(run / "report" / "scores.csv")}
    judged = Predictor.load(line.run)([Path(row["path"]) for row in found])
    assert len(found) == 8
    for row, one in zip(found, judged, strict=True):
        score = float(row["score"])
        assert score == pytest.approx(float(tested[Path(row["path"]).name]["score"]), rel=1e-5)
        assert score == pytest.approx(one.score, rel=1e-5)
        assert row["label"] == one.label
        assert float(row["threshold"]) == one.threshold
        name = name_of(row, folder)
        with Image.open((run / "predictions" / "heatmaps" / name).with_suffix(".jpg")) as p:
            assert p.size == (300, 300)
        assert (run / "predictions" / "maps" / name).with_suffix(".npy").exists()


def name_of(row: dict[str, str], folder: Path) -> Path:
    return Path(row["path"]).relative_to(folder)


def test_predict_by_a_forced_product_and_a_wrong_name(line: Line, tmp_path: Path) -> None:
    path, image = line.copy_to(tmp_path), images_of(line)[0]
    options = ["predict", "--ckpt_path", path, f"--data.predict_path={image}"]
    run_here(tmp_path, *options, "--product", "solar_poly")
    (row,) = rows(path.parent / "predictions" / "predictions.csv")
    assert row["product"] == "solar_poly"
    assert row["label"] in ("normal", "anomalous")
    (score,) = oracle_scores(line.path, [image], "solar_poly")
    assert float(row["score"]) == pytest.approx(score, rel=1e-5)
    said = failure(tmp_path, *options, "--product=solar")
    assert "no product 'solar' in this model: it knows ['solar_mono', 'solar_poly']" in said
    said = failure(tmp_path, *options, "--model.score=nll")
    assert (
        "score: file 'norm', model 'nll'), and its tensors and thresholds are valid only for those"
        in said
    )


@pytest.mark.slow
def test_a_wrong_name_shows_no_traceback_in_a_fresh_process(line: Line, tmp_path: Path) -> None:
    options = ["--ckpt_path", line.path, f"--data.predict_path={images_of(line)[0]}"]
    said = moleflow(tmp_path, "predict", *options, "--product=solar", fails=True)
    assert "no product 'solar' in this model: it knows ['solar_mono', 'solar_poly']" in said.stderr
    assert "Traceback" not in said.stderr


def test_calibrate_moves_thresholds_without_images_or_training(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = line.copy_to(tmp_path)
    before = [task.calibration for task in schedule_of(path).tasks]
    run_here(tmp_path, "calibrate", "--ckpt_path", path, "--false-alarm-rate", "0.001")
    said = capsys.readouterr().out
    assert said.count("extrapolated") >= 2
    assert "0.100%" in said
    after = [task.calibration for task in schedule_of(path).tasks]
    for old, new in zip(before, after, strict=True):
        assert old is not None
        assert new is not None
        assert new.scores == old.scores
        assert new.score_threshold.value > old.score_threshold.value
    weights = [torch.load(one, weights_only=True)["state_dict"] for one in (line.path, path)]
    assert all(torch.equal(weights[1][key], tensor) for key, tensor in weights[0].items())
    images = images_of(line)
    prediction = Predictor.load(path)(images)[0]
    limits = {task.name: task.calibration for task in schedule_of(path).tasks}
    assert prediction.threshold == limits[prediction.product].score_threshold.value


def test_experts_travel_and_all_others_stay_equal_to_the_bit(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, path = images_of(line), line.copy_to(tmp_path)
    before = {name: oracle_scores(line.path, images, name) for name in PRODUCTS}
    options = ["--ckpt_path", path]
    file = tmp_path / "poly.safetensors"
    run_here(tmp_path, "experts", "list", *options)
    assert "solar_poly" in capsys.readouterr().out
    run_here(tmp_path, "experts", "export", "solar_poly", *options, "--output", file)
    run_here(tmp_path, "experts", "remove", "solar_poly", *options)
    assert schedule_of(path).names == ["solar_mono"]
    assert oracle_scores(path, images, "solar_mono") == before["solar_mono"]
    run_here(tmp_path, "experts", "import", file, *options, "--name", "poly")
    run_here(tmp_path, "experts", "rename", "solar_mono", "mono", *options)
    assert schedule_of(path).names == ["mono", "poly"]
    assert oracle_scores(path, images, "mono") == before["solar_mono"]
    assert oracle_scores(path, images, "poly") == before["solar_poly"]
    # a second import, of the copy that `remove` kept, under a name that is there
    kept = path.parent / "experts" / "versions" / "solar_poly~1.safetensors"
    said = failure(tmp_path, "experts", "import", kept, *options, "--name", "mono")
    assert "the model already knows ['mono']" in said


def test_an_update_learns_again_beside_the_old_version_and_rolls_back(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the product that the base was learned with, at that: the base stays as it is
    product, other = PRODUCTS
    images, path = images_of(line), line.copy_to(tmp_path)
    before = {name: oracle_scores(path, images, name) for name in PRODUCTS}
    drifted = tmp_path / "drifted"
    lay_out(drifted, product, first=100, train=12)
    options = ["--ckpt_path", path]
    flags = [*options, f"--data.root={drifted}", "--schedule.epochs_per_task=1"]
    run_here(tmp_path, "experts", "update", product, *flags)
    shown = capsys.readouterr()
    following = [line for line in (shown.out + shown.err).splitlines() if "next, to" in line]
    assert len(following) == 3
    assert not [line for line in following if "updates" in line]
    assert "not tested again" not in shown.out + shown.err
    assert schedule_of(path).names == [other, product]
    assert schedule_of(path).tasks[1].epochs == 1
    # meanwhile no image went to the version that is replaced
    work = path.parent / "updates" / f"{product}~1" / "report" / "summary.json"
    routing = json.loads(work.read_text())["routing"]
    assert [row[0] for row in routing["confusion"]] == [0, 0, 0]
    assert sum(routing["confusion"][2]) == 8
    assert oracle_scores(path, images, other) == before[other]
    new = oracle_scores(path, images, product)
    assert new != before[product]
    run_here(tmp_path, "experts", "rollback", product, *options)
    assert oracle_scores(path, images, product) == before[product]
    assert oracle_scores(path, images, other) == before[other]
    # and forward again
    run_here(tmp_path, "experts", "rollback", product, *options)
    assert oracle_scores(path, images, product) == new
