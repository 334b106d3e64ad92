import json
import logging
import shutil
from html import escape
from pathlib import Path

import pytest
import torch

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks.good_images import evaluate_good_images
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.metrics.good_images import compare_halves
from moleflow_pl.report.good_images import next_commands
from tests.helpers.models import fit
from tests.helpers.products import draw_product

DATA = {"layout": "folder", "val_fraction": 0.4}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MoLEFlow, str]:
    """Run folder, model and output of a fit of two products without test images."""
    root = tmp_path_factory.mktemp("good_images")
    for seed, name in enumerate(("a", "b")):
        draw_product(root / "drawn", name, seed, train=12)
        shutil.copytree(root / "drawn" / name / "train" / "good", root / "data" / name)
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(
            "moleflow_pl.callbacks.evaluation.log_table",
            lambda _, table: said.append(table.title),
        )
        model = fit(root / "run", root / "data", ["a", "b"], data=DATA)
    return root / "run", model, "\n".join(said)


def test_fit_of_good_images_alone_ends_with_what_is_known(
    alone: tuple[Path, MoLEFlow, str],
) -> None:
    run, model, said = alone
    summary = json.loads((run / "report" / "summary.json").read_text())
    for task, entry in enumerate(summary["calibration"]):
        assert (entry["good_images"]["training"], entry["good_images"]["calibration"]) == (8, 4)
        assert sum(entry["good_images"]["routed"]) == 4
        calibration = model.schedule.tasks[task].calibration
        assert calibration is not None
        assert entry["threshold"]["value"] == calibration.score_threshold.value
        assert 0 < entry["good_images"]["halves"]["p"] <= 1
    assert said.splitlines()[-1] == "good images alone"
    page = (run / "report" / "report.html").read_text()
    assert "image was inspected" not in page
    for command in next_commands(RunFolder(run), model.schedule.tasks).values():
        assert escape(command) in page


def test_calibration_images_are_routed_as_the_router_does_alone(
    alone: tuple[Path, MoLEFlow, str],
) -> None:
    run, model, _ = alone
    data = ContinualDataModule(str(run.parent / "data"), ["a", "b"], num_workers=0, **DATA)
    data.follow(model.data_plan, run / "features")
    for task in range(2):
        with torch.inference_mode():
            found = evaluate_good_images(model.eval(), data, task)
            images = torch.cat([batch["image"] for batch in data.calibration_images(task)])
            expected = model(images).task
        assert found["routed"] == torch.bincount(expected, minlength=2).tolist()


def test_halves_are_compared_within_the_region_of_interest(
    alone: tuple[Path, MoLEFlow, str],
) -> None:
    run, model, _ = alone
    inspector = model.eval().inspector
    data = ContinualDataModule(str(run.parent / "data"), ["a", "b"], num_workers=0, **DATA)
    data.follow(model.data_plan, run / "features")
    inside = torch.zeros(inspector.extractor.shape[:2], dtype=torch.bool)
    inside[:, 0] = True
    try:
        with torch.inference_mode():
            whole = evaluate_good_images(model, data, 0)
            inspector.interest.set(0, inside)
            found = evaluate_good_images(model, data, 0)
            images = torch.cat([batch["image"] for batch in data.calibration_images(0)])
            means = inspector.joined(inspector.extractor(images))[:, inside].mean(1)
    finally:
        inspector.interest.set(0, torch.ones_like(inside))
    expected = compare_halves(means, ["a"] * len(images))
    assert expected is not None
    assert found["halves"] == pytest.approx(expected)
    assert found["halves"] != pytest.approx(whole["halves"])


def test_without_calibration_images_there_is_nothing_to_route(
    tmp_path: Path, alone: tuple[Path, MoLEFlow, str]
) -> None:
    options = {**DATA, "val_fraction": 0.0}
    fit(tmp_path, alone[0].parent / "data", ["a"], epochs=1, data=options)
    (entry,) = json.loads((tmp_path / "report" / "summary.json").read_text())["calibration"]
    assert entry["threshold"] is None
    assert entry["good_images"] == {"training": 12, "calibration": 0, "routed": [0], "halves": None}


def test_fit_warns_of_products_with_too_few_images_and_names_the_number_needed(
    tmp_path: Path, alone: tuple[Path, MoLEFlow, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "moleflow_pl"):
        fit(tmp_path, alone[0].parent / "data", ["a"], epochs=1, data=DATA)
    (said,) = [record.message for record in caplog.records if "too few" in record.message]
    assert "'a' has 4; 99 are enough, of 248 good images (data.val_fraction 0.4)" in said
