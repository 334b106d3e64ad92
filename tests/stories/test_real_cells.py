"""Decisions about real solar cells, with the demo's backbone and settings on fewer images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks import decisions
from benchmarks.harness.report import Report
from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl._internal.presets import read_preset
from moleflow_pl.data.layouts.elpv import ELPVLayout
from tests.helpers.models import fit

pytestmark = pytest.mark.slow  # `tests/benchmarks/test_decisions.py` judges tiny products

PRODUCTS = ("solar_mono", "solar_poly")
DEMO = read_preset("demo")["model"] | {"lora_rank": 32, "coupling_layers": 4}
IMAGES = {"train": 60, "good": 50, "defective": 25}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real cells of both kinds as folders, evenly taken from all there are."""
    root, layout = tmp_path_factory.mktemp("cells"), ELPVLayout()
    for product in PRODUCTS:
        test = layout.test(product)
        parts = {
            "train": ("train/good", layout.train(product)),
            "good": ("test/good", [record for record in test if not record.gt_label]),
            "defective": ("test/defective", [record for record in test if record.gt_label]),
        }
        for name, (folder, records) in parts.items():
            (root / product / folder).mkdir(parents=True)
            for i in range(IMAGES[name]):
                shutil.copy(records[i * len(records) // IMAGES[name]].path, root / product / folder)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cells: Path) -> Path:
    """A run of both kinds, with a third of the good images for calibration."""
    run = tmp_path_factory.mktemp("decisions")
    fit(
        run, cells, list(PRODUCTS), epochs=2, model=DEMO, callbacks=[],
        data={"val_fraction": 0.3, "batch_size": 16},
    )  # fmt: skip
    return run


def test_decisions_about_real_cells_are_within_their_intervals(run: Path, cells: Path) -> None:
    """False alarms in their interval, known products known; no limit tells the twins apart."""
    model, report = MoLEFlow.load_from_checkpoint(run / "last.ckpt").eval(), Report("decisions")
    decisions.judge_run(report, model, {"layout": "mvtec", "root": str(cells)})
    false_alarms = [row for row in report.rows if "asked" in row.what]
    assert len(false_alarms) == 6  # two products, three rates
    assert all(row.unit == f"of {IMAGES['good']}" and row.holds for row in false_alarms)
    known = [
        row for row in report.rows if row.what.endswith((", good, unknown", "defective, unknown"))
    ]
    assert len(known) == 8  # either by itself, and both together
    assert all(row.holds for row in known if "good" in row.what)
    # one image at most
    assert max(row.value for row in known if row.value is not None) <= 100.01 / IMAGES["defective"]
    missed = [row for row in report.rows if row.least == decisions.UNKNOWN]
    assert len(missed) == 2
    for row in missed:
        assert not row.holds
        assert "any limit that leaves known defects known" in row.note
    assert report.failed >= 2


def test_photographs_of_other_things_are_unknown_to_a_run_that_knows_cells(
    run: Path, cells: Path
) -> None:
    inspect = Predictor.load(run)
    others = [crop for name in ("china.jpg", "flower.jpg") for crop in crops(name)]
    assert len(others) == 24
    assert [one.label for one in inspect(others)] == ["unknown_product"] * len(others)
    # half of a cell torn out leaves the other half what it was
    for path in sorted((cells / "solar_mono" / "test" / "good").iterdir())[:5]:
        torn = np.array(Image.open(path).convert("RGB"))
        torn[:, : torn.shape[1] // 2] = 0
        assert inspect(torn).label == "anomalous"


def crops(name: str) -> list[np.ndarray]:
    """Twelve parts of a photograph, side by side."""
    image = load_sample_image(name)
    side = image.shape[1] // 4
    return [
        image[y : y + side, x : x + side]
        for y in range(0, 3 * 133, 133)
        for x in range(0, 640, 160)
    ]
