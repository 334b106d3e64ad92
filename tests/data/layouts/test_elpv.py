from pathlib import Path

import pytest

from moleflow_pl.data.layouts.elpv import ELPVLayout
from moleflow_pl.errors import DataError


@pytest.fixture
def elpv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ELPVLayout:
    package = tmp_path / "elpv_dataset"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    rows = [
        f"images/cell{i:04d}.png  {probability}  {kind}"
        for i, (probability, kind) in enumerate(
            [(0.0, "mono"), (1.0, "mono"), (0.0, "mono"), (0.3333333, "mono"), (0.0, "mono"),
             (0.6666666, "poly"), (0.0, "poly"), (1.0, "poly")]
        )
    ]  # fmt: skip
    (package / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: type("Spec", (), {"origin": str(package / "__init__.py")}),
    )
    return ELPVLayout()


def test_solar_cells_are_split_by_rule_and_doubtful_ones_left_out(elpv: ELPVLayout) -> None:
    assert elpv.products() == ["solar_mono", "solar_poly"]
    train = [record.path.name for record in elpv.train("solar_mono")]
    test = [(record.path.name, record.gt_label) for record in elpv.test("solar_mono")]
    assert train == ["cell0000.png", "cell0004.png"]
    assert test == [("cell0002.png", 0), ("cell0001.png", 1)]
    assert [record.path.name for record in elpv.train("solar_poly")] == ["cell0006.png"]


def test_unknown_kind_of_cell_lists_those_there_are(elpv: ELPVLayout) -> None:
    with pytest.raises(DataError, match=r"it has \['solar_mono', 'solar_poly'\]"):
        elpv.train("mono")


def test_elpv_without_its_package_or_with_a_root_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DataError, match="--data.layout mvtec"):
        ELPVLayout("/data")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install"):
        ELPVLayout()
