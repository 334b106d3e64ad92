import pytest

from benchmarks.harness.beside_backbone import share_row
from benchmarks.harness.many_products import bank_widths
from moleflow_pl import MoLEFlow


@pytest.mark.parametrize(("whole", "holds"), [(1.149, True), (1.151, False)])
def test_the_share_is_of_the_backbone_alone(whole: float, holds: bool) -> None:
    row = share_row("batch", 1, whole=whole, backbone=1.0)
    assert row.value == pytest.approx(100 * (whole - 1))
    assert row.holds == holds


def test_every_bank_of_the_presets_is_as_wide_as_its_features() -> None:
    arguments = {"backbone": "test_vit", "backbone_weights": "random", "image_size": 64}
    model = MoLEFlow(**arguments, layers=[[0], [1]], flow_groups=1, score=["depths", "groups"])
    dim = model.inspector.extractor.dim
    assert bank_widths(model.inspector) == {"depths": [dim], "groups": [dim, dim]}
