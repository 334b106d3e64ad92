from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.harness import folds
from benchmarks.harness.folds import compare, cross_scores, folds_of, recipes_of
from benchmarks.harness.plans import Backbone
from benchmarks.harness.products import ProductSource
from benchmarks.harness.report import Row
from benchmarks.harness.study import Study
from moleflow_pl.features.extractor import PatchExtractor
from tests.helpers.benchmarks import METHOD, TINY
from tests.helpers.products import draw_product

BACKBONE: Backbone = replace(TINY, method=replace(METHOD, epochs=1))
KEPT_OUT, ALL_LEARNED = recipes_of(BACKBONE)
FOLDS = 2
IMAGES = 10


@pytest.fixture(autouse=True, scope="module")
def _two_folds() -> Iterator[None]:
    """Two folds are as good as five to see whose scores they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds, "FOLDS", FOLDS)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of one product."""
    place = tmp_path_factory.mktemp("folds")
    draw_product(place, "a", 0, train=IMAGES)
    return Study(BACKBONE, [ProductSource("a", str(place))], place / "study")


@pytest.fixture(scope="module")
def rows(study: Study) -> list[Row]:
    """Both thresholds of the product."""
    return list(compare(study, 0))


def test_every_good_image_is_of_one_fold_and_trains_all_others(study: Study) -> None:
    source = study.sources["a"]
    images, parts = source.train(), folds_of(source)
    held = [image for part in parts for image in part.test()]
    assert sorted(image.path for image in held) == sorted(image.path for image in images)
    for part in parts:
        assert {image.path for image in part.train()} == {
            image.path for image in images if image not in part.test()
        }


def test_folds_share_the_features_of_the_product(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Study(BACKBONE, list(study.sources.values()), tmp_path)
    again.features("a")
    forward = PatchExtractor.forward

    def not_again(extractor: PatchExtractor, images: Tensor) -> Tensor:
        assert not images.any(), "the backbone has seen these images"  # zeros ask for the shape
        return forward(extractor, images)

    monkeypatch.setattr(PatchExtractor, "forward", not_again)
    fold = folds_of(again.sources["a"])[0]
    monkeypatch.setattr(folds, "folds_of", lambda _: [fold])
    found = cross_scores(again, ALL_LEARNED, again.sources["a"], 0)
    assert all(found[::FOLDS])
    assert not any(found[1::FOLDS])


@pytest.mark.slow  # the last test learns a fold too
def test_an_image_is_scored_by_an_expert_that_did_not_see_it(study: Study, rows: list[Row]) -> None:
    assert len(rows) == 2
    found = cross_scores(study, ALL_LEARNED, study.sources["a"], 0)
    alone = Study(BACKBONE, folds_of(study.sources["a"])[1:], study.folder)
    inspector = alone.load(ALL_LEARNED, 0, ["a"]).inspector
    with torch.inference_mode():
        held = study.features("a").train[1::FOLDS]
        expected = inspector.image_score(inspector.patch_scores(held, 0))
    torch.testing.assert_close(torch.tensor(found[1::FOLDS]).float(), expected)


@pytest.mark.slow
def test_both_thresholds_are_judged_by_the_test_images(rows: list[Row]) -> None:
    kinds = [row.what.split(", ")[1] for row in rows]
    assert kinds == ["a tenth kept out", "cross-fitted"]
    images = [row.note.partition(" calibration")[0] for row in rows]
    assert images == ["1", str(IMAGES)]
    assert {row.unit for row in rows} == {"of 3"}
