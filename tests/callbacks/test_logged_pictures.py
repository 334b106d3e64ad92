import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from PIL import Image

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import make_trainer
from moleflow_pl.callbacks.logged_pictures import log_gallery, side_by_side, slug, taker_of
from moleflow_pl.report.figures import jpeg_uri
from tests.helpers.models import TINY_MODEL
from tests.helpers.scores import scored

PICTURE = Image.new("RGB", (6, 4), (200, 10, 10))


def stand_in(kind: type, experiment: object, **attributes: object) -> Any:
    """A logger of a kind without its package: only what it hands on is looked at."""
    body = {"__init__": lambda self: None, "experiment": experiment, **attributes}
    return type(kind.__name__, (kind,), body)()


def test_each_logger_is_handed_the_picture_as_it_takes_it() -> None:
    seen: list[tuple] = []

    def note(*args: object, **options: object) -> None:
        seen.append((*args, *options.values()))

    tensorboard = stand_in(TensorBoardLogger, SimpleNamespace(add_image=note, add_text=note))
    taker_of(tensorboard)("a/0", PICTURE, "hole", 3)  # type: ignore[misc]
    (name, pixels, *rest), text = seen
    assert (name, pixels.shape, rest) == ("a/0", (4, 6, 3), [3, "HWC"])
    assert text == ("a/0", "hole", 3)
    seen.clear()
    mlflow = stand_in(MLFlowLogger, SimpleNamespace(log_image=note), run_id="r")
    taker_of(mlflow)("a/0", PICTURE, "hole", 3)  # type: ignore[misc]
    assert seen == [("r", PICTURE, "a/0/3.png")]
    seen.clear()

    def log_image(logger: object, *args: object, **options: object) -> None:
        note(*args, **options)

    logger = stand_in(WandbLogger, None, log_image=log_image)
    taker_of(logger)("a/0", PICTURE, "hole", 3)  # type: ignore[misc]
    assert seen == [("a/0", [PICTURE], 3, ["hole"])]


def test_a_logger_of_numbers_alone_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*args: object) -> None:
        raise AssertionError("nobody takes pictures")

    monkeypatch.setattr("moleflow_pl.report.gallery.build_gallery", draw)
    log_gallery([CSVLogger(tmp_path)], [scored(0, [0, 1], [0, 0], [1.0, 2.0])], ["a"], 0)


def test_pictures_lie_side_by_side_under_names_that_are_paths() -> None:
    joined = side_by_side({"image": jpeg_uri(PICTURE), "mask": jpeg_uri(PICTURE)})
    assert joined.size == (12, 4)
    assert np.asarray(joined)[:, 7, 0].mean() == pytest.approx(200, abs=8)
    assert slug("../ネジ <b>") == "-ネジ-b-"


def tensorboard(folder: Path) -> Logger:
    pytest.importorskip("tensorboard")
    return TensorBoardLogger(folder, name="", version="")


def mlflow_file(folder: Path) -> Logger:
    pytest.importorskip("mlflow")
    return MLFlowLogger(tracking_uri=f"file:{folder}")


def wandb(folder: Path) -> Logger:
    pytest.importorskip("wandb")
    return WandbLogger(save_dir=folder, offline=True)


FILES = {tensorboard: "events.*", mlflow_file: "*.png", wandb: "*.png"}


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_a_fit_is_logged_without_a_network(
    make: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = make(tmp_path / "logs")
    data = ContinualDataModule(str(data_root), ["01"], batch_size=4, num_workers=0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = make_trainer(tmp_path / "run", epochs_per_task=1, logger=logger, **quiet)
    trainer.fit(MoLEFlow(**TINY_MODEL), datamodule=data)
    logger.finalize("success")
    found = [path for path in (tmp_path / "logs").rglob(FILES[make]) if path.stat().st_size]
    assert found
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert not os.environ.get("WANDB_API_KEY")
