import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks.suspects import look_at_suspects, suspects_warning
from moleflow_pl.tasks.calibration import Calibration, TrainingScores
from moleflow_pl.tasks.schedule import Task
from tests.helpers.models import fit
from tests.helpers.products import draw_product

HALF = {"val_fraction": 0.5}


@pytest.fixture(scope="module")
def contaminated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MoLEFlow]:
    """Run folder and model of a fit with one defective image among its calibration images."""
    root = tmp_path_factory.mktemp("suspects")
    draw_product(root / "data", "a", 0, train=48)
    images = sorted((root / "data" / "a" / "train" / "good").iterdir())
    image = images[2 * 7 + 1]  # every second one is for calibration
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    model = fit(root / "run", root / "data", ["a"], data=HALF)
    (root / "name").write_text(image.name)
    return root, model


def test_suspect_calibration_image_is_named_shown_and_left_out(
    contaminated: tuple[Path, MoLEFlow],
) -> None:
    root, model = contaminated
    name = (root / "name").read_text()
    (task,) = model.schedule.tasks
    assert task.calibration is not None
    assert [suspect.image for suspect in task.calibration.suspects] == [name]
    summary = json.loads((root / "run" / "report" / "summary.json").read_text())
    assert [one["image"] for one in summary["calibration"][0]["threshold"]["suspects"]] == [name]
    page = (root / "run" / "report" / "report.html").read_text()
    assert "Look at these before you trust a threshold" in page
    assert f'alt="heatmap of {name}"' in page
    others = task.calibration.without({name})
    assert others.suspects == []
    assert task.calibration.score_threshold.value < max(task.calibration.scores)


def test_suspects_are_scored_by_their_own_expert(contaminated: tuple[Path, MoLEFlow]) -> None:
    root, model = contaminated
    data = ContinualDataModule(str(root / "data"), ["a"], num_workers=0, **HALF)
    data.follow(model.data_plan, root / "features")
    with torch.inference_mode():
        found = look_at_suspects(model, data, 0)[0]
    assert Path(found.path).name == found.name == (root / "name").read_text()
    assert (found.kind, found.looks_defective) == ("calibration", True)
    assert model.inspector.image_score(found.patch_scores[None]).item() == pytest.approx(
        found.score, rel=1e-4
    )


def test_defective_training_image_is_named_and_shown_without_its_own_patches(
    contaminated: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    root, _ = contaminated
    name = (root / "name").read_text()
    images = sorted((root / "data" / "a" / "train" / "good").iterdir())
    shutil.copytree(root / "data", tmp_path / "data")
    good = tmp_path / "data" / "a" / "train" / "good"
    # in the place of a neighbour, of which every second one is for calibration
    neighbour = images[[image.name for image in images].index(name) - 1].name
    (good / neighbour).unlink()
    (good / name).rename(good / neighbour)
    shutil.copyfile(images[2], good / name)
    model = fit(tmp_path / "run", tmp_path / "data", ["a"], data=HALF, model={"score": "bank"})
    (task,) = model.schedule.tasks
    assert task.calibration is not None
    assert task.calibration.suspects[0].image == neighbour
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert f'alt="heatmap of {neighbour}"' in page
    data = ContinualDataModule(str(tmp_path / "data"), ["a"], num_workers=0, **HALF)
    data.follow(model.data_plan, root / "features")
    (found,) = [one for one in look_at_suspects(model, data, 0) if one.looks_defective]
    assert (found.name, found.kind) == (neighbour, "training")
    assert model.inspector.image_score(found.patch_scores[None]).item() == pytest.approx(
        found.score, rel=1e-4
    )
    assert found.patch_scores is not None
    model.learner.highest_training.clear()  # as in a later process
    (later,) = [one for one in look_at_suspects(model, data, 0) if one.looks_defective]
    assert (later.name, Path(later.path)) == (neighbour, good / neighbour)
    assert later.patch_scores is None


def kinds_shown(
    contaminated: tuple[Path, MoLEFlow], monkeypatch: pytest.MonkeyPatch, suspects: int
) -> list[tuple[str, bool]]:
    """Kind and judgement of the images shown, if so many calibration images are suspects."""
    root, model = contaminated
    calibration = model.schedule.tasks[0].calibration
    assert calibration is not None
    data = ContinualDataModule(str(root / "data"), ["a"], num_workers=0, **HALF)
    data.follow(model.data_plan, root / "features")
    paths = [str(record.path) for record in data.train_loader_in_order(0).dataset.records]
    training = TrainingScores(
        list(map(float, range(24))), ["a"] * 24, [Path(p).name for p in paths]
    )
    ranked = replace(calibration, training=training).ranked
    ranked["calibration"] = ranked["calibration"]._replace(suspects=suspects)
    maps = dict.fromkeys(paths, torch.zeros(12, 12))
    monkeypatch.setattr(Calibration, "ranked", ranked)
    monkeypatch.setattr(calibration, "training", training)
    monkeypatch.setattr(model.learner, "highest_training", {0: maps})
    with torch.inference_mode():
        return [(one.kind, one.looks_defective) for one in look_at_suspects(model, data, 0)]


def test_highest_scores_of_each_kind_are_shown_if_none_stands_out(
    contaminated: tuple[Path, MoLEFlow], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = kinds_shown(contaminated, monkeypatch, suspects=0)
    assert shown == [("calibration", False)] * 3 + [("training", False)] * 3


def test_many_suspects_of_one_kind_hide_none_of_the_other(
    contaminated: tuple[Path, MoLEFlow], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = kinds_shown(contaminated, monkeypatch, suspects=9)
    assert shown == [("calibration", True)] * 6 + [("training", False)] * 3


def test_clean_calibration_gives_no_warning() -> None:
    task = Task(["a"], 1, calibration=Calibration(scores=[1.0, 2.0], images=["1.png", "2.png"]))
    assert suspects_warning(task, "run") is None
    scores = [*range(70), *range(1000, 1007)]
    images = [f"{i}.png" for i in range(77)]
    task.calibration = Calibration(scores=list(map(float, scores)), images=images)
    told = suspects_warning(task, "run")
    assert told is not None
    assert told.startswith("a: 7 of 77 good images look defective")
    assert ": for calibration 76.png, 75.png, 74.png, 73.png, 72.png, 71.png and 1 more. " in told


def test_a_warning_names_suspects_of_both_kinds() -> None:
    scores = [*map(float, range(70)), *map(float, range(1000, 1007))]
    images = [f"{i}.png" for i in range(77)]
    training = TrainingScores(scores, ["a"] * 77, [f"t{image}" for image in images])
    task = Task(["a"], 1, calibration=Calibration(scores=scores, images=images, training=training))
    told = suspects_warning(task, "run")
    assert told is not None
    assert told.startswith("a: 14 of 154 good images look defective: for calibration 76.png, ")
    assert "and 1 more; for training t76.png, t75.png, " in told


def test_a_warning_of_an_update_names_its_page_and_the_run_to_calibrate() -> None:
    scores, images = [*range(70), *range(1000, 1007)], [f"{i}.png" for i in range(77)]
    task = Task(["a"], 1, calibration=Calibration(scores=list(map(float, scores)), images=images))
    told = suspects_warning(task, "my run/updates/a~1")
    assert told is not None
    assert "in my run/updates/a~1/report/report.html." in told
    assert "moleflow calibrate 'my run' --exclude FILE" in told
