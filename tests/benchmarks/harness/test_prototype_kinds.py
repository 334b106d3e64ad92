from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.harness import prototype_kinds
from benchmarks.harness.products import ProductSource
from benchmarks.harness.prototype_kinds import Kind, accuracies, compare_kinds, queries_of
from benchmarks.harness.report import Report
from benchmarks.harness.study import Study
from moleflow_pl.routing.router import PrototypeRouter
from tests.helpers.benchmarks import TINY


@pytest.fixture
def study(tmp_path: Path, data_root: Path) -> Study:
    """Two products, half of whose good images are trained on."""
    sources = [ProductSource(name, str(data_root), train_images=3) for name in ("01", "b")]
    return Study(TINY, sources, tmp_path)


class FirstRouter(PrototypeRouter):
    """Routes every image to the first task."""

    def route(self, features: Tensor) -> Tensor:
        return torch.zeros(len(features), dtype=torch.long)


def test_accuracy_is_the_share_of_images_that_reach_their_own_product(study: Study) -> None:
    queries = queries_of(study)
    kind = Kind("first", FirstRouter("pooled"), lambda features: features.mean((1, 2)))
    found = accuracies(kind, study, queries)
    assert {share for (product, _), share in found.items() if product == "01"} == {1.0}
    assert {share for (product, _), share in found.items() if product == "b"} == {0.0}


def test_every_kind_routes_every_condition(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prototype_kinds, "SIDES", (1,))
    report = Report("x")
    compare_kinds(report, study)
    rows = {row.what.removeprefix(f"{TINY.name}, "): row for row in report.rows}
    kinds = ("mean", "median", "regions 1 x 1", "regions, the nearest")
    conditions = {what.rpartition(", ")[2] for what in rows}
    assert {"whole", "twice the light", "a third of the light", "defective", "good"} < conditions
    assert len(rows) == len(kinds) * 2 * len(conditions)
    for kind in kinds:
        for product in ("01", "b"):
            assert rows[f"{kind}: {product}, whole"].value == 1.0
            assert rows[f"{kind}: {product}, whole"].note == "3 images"
