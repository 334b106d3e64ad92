from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.harness import baselines
from benchmarks.harness.baselines import BASELINES, RANDOM_BANK
from benchmarks.harness.products import AS_DEFAULT, AS_PUBLISHED, ProductSource, evenly
from benchmarks.harness.study import Run, Study
from tests.helpers.benchmarks import METHOD, TINY, tiny_study


def not_again(*_: object) -> NoReturn:
    raise AssertionError("this was done before")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Study, Run]:
    """A study of two products with one fit."""
    study = tiny_study(tmp_path_factory.mktemp("study"), data_root)
    return study, study.run(METHOD, 0, ["01", "b"])


def test_run_has_results_by_every_score_and_the_routing(finished: tuple[Study, Run]) -> None:
    study, run = finished
    assert set(run.products) == {"01", "b"}
    for product, results in run.products.items():
        labels = study.features(product).defective
        for column in ("norm, routed", "norm, oracle", "bank, routed", "bank, oracle"):
            result = results[column]
            assert result["image_auroc"] == pytest.approx(roc_auc_score(labels, result["scores"]))
        assert set(results["routing"]) == {"good", "defective"}
    assert run.facts["first_unchanged"] is True
    assert len(run.facts["fit_seconds"]) == 2


def test_oracle_scores_are_those_of_the_products_expert(finished: tuple[Study, Run]) -> None:
    study, run = finished
    inspector = study.load(METHOD, 0, ["01", "b"]).inspector
    with torch.no_grad():
        patches = inspector.patch_scores(study.features("b").test, 1)
    expected = inspector.image_score(patches)
    found = torch.tensor(run.products["b"]["bank, oracle"]["scores"]).float()
    torch.testing.assert_close(found, expected)


def test_finished_results_are_read_and_not_computed_again(
    finished: tuple[Study, Run], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, run = finished
    again = tiny_study(study.folder, data_root)
    monkeypatch.setattr(again, "_fit", not_again)
    monkeypatch.setattr(again, "_evaluate", not_again)
    assert again.run(METHOD, 0, ["01", "b"]) == run


def test_stopped_study_continues_with_the_products_that_are_missing(
    finished: tuple[Study, Run], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, run = finished
    key = study.run_key(METHOD, 0, ["01", "b"])
    (study.folder / "results" / f"{key}-b.json").unlink()
    again = tiny_study(study.folder, data_root)
    monkeypatch.setattr(again, "_fit", not_again)
    assert again.run(METHOD, 0, ["01", "b"]) == run


def test_anything_a_result_depends_on_changes_its_key(tmp_path: Path, data_root: Path) -> None:
    study, order = tiny_study(tmp_path, data_root), ["01", "b"]
    fewer = [ProductSource(name, str(data_root), train_images=3) for name in order]
    keys = {
        study.run_key(METHOD, 0, order),
        study.run_key(METHOD, 1, order),
        study.run_key(METHOD, 0, ["b", "01"]),
        study.run_key(METHOD, 0, ["01"]),
        study.run_key(replace(METHOD, lr=1.0), 0, order),
        Study(TINY, fewer, tmp_path, 1).run_key(METHOD, 0, order),
        Study(TINY, fewer, tmp_path).run_key(METHOD, 0, order),
        Study(TINY.with_features("x", smooth=3), fewer, tmp_path, 1).run_key(METHOD, 0, order),
    }
    assert len(keys) == 8


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_find_the_bright_squares(
    name: str, finished: tuple[Study, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "BANK", 20)
    study, _ = finished
    run = study.baseline(name, 0, [AS_PUBLISHED, AS_DEFAULT])
    for product in ("01", "b"):
        for image in (AS_PUBLISHED, AS_DEFAULT):
            assert run.products[product][image.key]["image_auroc"] == 1.0


def test_baseline_of_a_study_has_the_scores_of_its_bank(finished: tuple[Study, Run]) -> None:
    study, _ = finished
    features = study.features("b")
    run = study.baseline(RANDOM_BANK, 0, [AS_DEFAULT])
    bank, patches = features.train.flatten(0, 2), features.test.flatten(1, 2)
    # fewer patches than a bank holds: all of them are in it
    nearest = torch.stack([torch.cdist(rows, bank).amin(1) for rows in patches])
    highest = nearest.sort(1, descending=True).values[:, :1].mean(1)
    found = torch.tensor(run.products["b"][AS_DEFAULT.key]["scores"]).float()
    torch.testing.assert_close(found, highest, rtol=1e-4, atol=1e-4)


def test_images_are_taken_evenly_and_within_their_number(data_root: Path) -> None:
    source = ProductSource("01", str(data_root), train_images=3, test_images=4)
    assert len(source.train()) == 3
    assert {record.gt_label for record in source.test()} == {0, 1}
    assert len(source.test()) == 4
    assert evenly(["a", "b"], 5) == ["a", "b"]
