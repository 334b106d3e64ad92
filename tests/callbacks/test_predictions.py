import csv
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from callbacks import PredictionWriter
from callbacks.predictions import COLUMNS
from moleflow_pl import ContinualDataModule, MoLEFlow


def test_a_row_for_every_image_with_product_and_margin(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    model = MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")
    data = ContinualDataModule(
        str(data_root), ["01", "b"], num_workers=0, predict_path=str(data_root / "b" / "test")
    )
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False,
        enable_progress_bar=False, callbacks=[PredictionWriter()],
    )  # fmt: skip
    trainer.predict(model, data, return_predictions=False)
    with (tmp_path / "predictions" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 6
    assert {row["product"] for row in rows} == {"b"}
    assert all(float(row["router_margin"]) >= 0 for row in rows)
    assert {row["threshold"] + row["label"] for row in rows} == {""}
    with (learned[0] / "report" / "scores.csv").open() as file:
        tested = {Path(r["path"]): float(r["score"]) for r in csv.DictReader(file)}
    for row in rows:
        assert float(row["score"]) == pytest.approx(tested[Path(row["path"])], rel=1e-5)
