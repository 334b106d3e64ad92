from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.harness import parts
from benchmarks.harness.parts import NEAREST, aurocs_of_draws, part_maps
from benchmarks.harness.study import Study
from moleflow_pl.scoring.bank_search import projection_distance
from tests.helpers.benchmarks import METHOD, TINY, tiny_study

# banks of a few vectors, so that draws differ
MODEL = {"score": ["depths", "groups"], "bank_mb": 0.001}
SCORES = ("norm", "depths+groups")
RECIPE = replace(METHOD, model=MODEL, epochs=1, val_fraction=0.5, scores=SCORES)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Study:
    """Two tiny products."""
    backbone = replace(TINY, method=RECIPE)
    return tiny_study(tmp_path_factory.mktemp("parts"), data_root, backbone)


def test_parts_add_up_to_the_score_of_the_model(study: Study) -> None:
    maps = part_maps(study, RECIPE, 0, "b")
    assert set(maps.test) == {"norm", "depths", "groups", "depths" + NEAREST, "groups" + NEAREST}
    inspector = study.load(RECIPE, 0, study.products).inspector
    with torch.inference_mode():
        expected = inspector.patch_scores(study.features("b").test, 1)
    torch.testing.assert_close(maps.total(["depths", "groups"])[0], expected)


def test_nearest_vectors_are_no_farther_than_their_bank_says(study: Study) -> None:
    maps = part_maps(study, RECIPE, 0, "b")
    inspector = study.load(RECIPE, 0, study.products).inspector
    with torch.inference_mode():
        apart = inspector.extractor.groups.split(study.features("b").test)
        bank = inspector.search_banks(1)["groups"][0]
        vectors = bank[torch.arange(len(bank))]
        nearest = torch.cdist(apart[0].flatten(0, 2), vectors).amin(1)
        soft = projection_distance(apart[0], bank)
    found = maps.test["groups" + NEAREST]
    torch.testing.assert_close(found.flatten(), nearest, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(maps.test["groups"], soft)
    assert not torch.allclose(found, soft)


def test_scores_are_computed_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = part_maps(study, RECIPE, 0, "b")
    monkeypatch.setattr(parts, "scored_apart", None)
    again = part_maps(study, RECIPE, 0, "b")
    assert torch.equal(again.good["norm"], before.good["norm"])


def test_calibration_images_are_those_the_model_has_not_learned(study: Study) -> None:
    train, good = study.split(RECIPE, "b")
    features = study.features("b").train
    assert torch.equal(train, features[[0, 2, 4]])
    assert torch.equal(good, features[[1, 3, 5]])


def test_a_draw_changes_the_banks_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []

    def remember(scores: torch.Tensor, labels: torch.Tensor) -> float:
        drawn.append(scores)
        return 0.5

    monkeypatch.setattr(parts, "auroc", remember)
    assert aurocs_of_draws(study, RECIPE, 0, "b", 2) == [0.5, 0.5]
    inspector = study.load(RECIPE, 0, study.products).inspector
    with torch.inference_mode():
        patches = inspector.patch_scores(study.features("b").test, 1)
    torch.testing.assert_close(drawn[0], inspector.image_score(patches))  # the run's own seed
    assert not torch.allclose(drawn[0], drawn[1])
