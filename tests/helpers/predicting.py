"""`predict` in this process, and what it wrote."""

import csv
import shutil
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import PredictionWriter


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


class PowerFailedError(Exception):
    """A stop in the middle."""


def predict(run: Path, model: MoLEFlow, images: Path | str, stop_after: int | None = None,
            workers: int = 0, **options: object) -> None:  # fmt: skip
    """Predict in this process, as the command line does; perhaps stopped after some batches."""
    writer = PredictionWriter(**options)  # type: ignore[arg-type]
    if stop_after is not None:
        write = writer._write_pictures

        def fail(path: str, found: object, preview: object) -> None:
            writer.calls = getattr(writer, "calls", 0) + 1  # type: ignore[attr-defined]
            if writer.calls > stop_after:  # type: ignore[attr-defined]
                raise PowerFailedError
            write(path, found, preview)  # type: ignore[arg-type]

        writer._write_pictures = fail  # type: ignore[method-assign]
    data = ContinualDataModule(
        None, ["01"], num_workers=workers, batch_size=2, predict_path=str(images)
    )  # fmt: skip
    trainer = Trainer(
        default_root_dir=run, accelerator="cpu", logger=False, enable_progress_bar=False,
        callbacks=[writer],
    )  # fmt: skip
    trainer.predict(model, data, return_predictions=False)


def copied(data_root: Path, folder: Path, kind: str = "good", count: int = 6) -> Path:
    """A folder of images of one kind."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        shutil.copy(data_root / "b" / "test" / kind / f"{i % 3:03d}.png", folder / f"{i}.png")
    return folder


class LazyLoader(torch.utils.data.DataLoader):
    """Reads its images no earlier than it is asked for batches."""

    def __init__(self, *args: object, **options: object) -> None:
        prefetch = {"prefetch_factor": 1} if options.get("num_workers") else {}
        super().__init__(*args, **options, **prefetch)  # type: ignore[arg-type]
