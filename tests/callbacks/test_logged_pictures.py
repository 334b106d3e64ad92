import os
import re
from collections.abc import Callable
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
from tests.helpers.service import wait_until

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


CURVE = "train/01/nll_per_dim"
Arrived = tuple[set[str], set[str]]  # curves, and places of pictures


def tensorboard(folder: Path) -> tuple[Logger, Callable[[], Arrived]]:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def arrived() -> Arrived:
        tags = accumulators.EventAccumulator(str(folder)).Reload().Tags()
        return set(tags["scalars"]), set(tags["images"])

    return TensorBoardLogger(folder, name="", version=""), arrived


def mlflow(folder: Path, store: str) -> tuple[Logger, Callable[[], Arrived]]:
    pytest.importorskip("mlflow")
    artifacts = folder / "artifacts"
    logger = MLFlowLogger(tracking_uri=store, artifact_location=artifacts.as_uri())

    def arrived() -> Arrived:
        run = logger.experiment.get_run(logger.run_id)
        root = artifacts / logger.run_id / "artifacts"
        pictures = {str(path.relative_to(root).parent) for path in root.rglob("*.png")}
        return set(run.data.metrics), pictures

    return logger, arrived


def mlflow_folder(folder: Path) -> tuple[Logger, Callable[[], Arrived]]:
    return mlflow(folder, folder.as_uri())


def mlflow_sqlite(folder: Path) -> tuple[Logger, Callable[[], Arrived]]:
    pytest.importorskip("alembic")  # which mlflow-skinny does without
    return mlflow(folder, f"sqlite:///{folder}/mlflow.db")


def wandb(folder: Path) -> tuple[Logger, Callable[[], Arrived]]:
    pytest.importorskip("wandb")
    logger = WandbLogger(save_dir=folder, offline=True)

    def arrived() -> Arrived:
        logger.experiment.finish()
        (record,) = folder.rglob("*.wandb")
        # a process of its own writes it, also after the end
        wait_until(lambda: CURVE.encode() in record.read_bytes(), 60)
        root = next(folder.rglob("media/images"))
        pictures = {str(path.relative_to(root).parent / path.stem) for path in root.rglob("*.png")}
        # a picture's file ends in its step and hash
        places = {re.sub(r"_\d+_[0-9a-f]+$", "", name) for name in pictures}
        return {CURVE}, places

    return logger, arrived


@pytest.mark.slow  # what each logger is handed, the first test tells
@pytest.mark.parametrize("make", [tensorboard, mlflow_folder, mlflow_sqlite, wandb])
def test_curves_and_pictures_of_a_fit_arrive_without_a_network(
    make: Callable[[Path], tuple[Logger, Callable[[], Arrived]]],
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "logs"
    folder.mkdir()
    logger, arrived = make(folder)
    data = ContinualDataModule(
        str(data_root), ["01"], batch_size=4, num_workers=0, val_fraction=0.0
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = make_trainer(tmp_path / "run", epochs_per_task=1, logger=logger, **quiet)
    trainer.fit(MoLEFlow(**TINY_MODEL), datamodule=data)
    logger.finalize("success")
    curves, pictures = arrived()
    assert CURVE in curves
    # without calibration images, what is shown is chosen by score
    assert {"gallery/01/defective-highest-scores/0", "gallery/01/good-highest-scores/0"} <= pictures
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert not os.environ.get("WANDB_API_KEY")
