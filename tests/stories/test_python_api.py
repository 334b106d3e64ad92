"""Model, data module and Trainer put together otherwise than the command does."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import EvaluationCallback, TaskSchedulerCallback
from moleflow_pl.errors import CheckpointError, ConfigError, DataError, MoLEFlowError
from tests.helpers.models import with_tasks
from tests.helpers.products import SIZE

IMAGES = torch.linspace(0, 1, 4 * 3 * SIZE * SIZE).reshape(4, 3, SIZE, SIZE)


def trainer(**options: object) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(accelerator="cpu", enable_checkpointing=False, **quiet, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["train", "val", "test", "predict"])
def test_data_module_alone_asks_for_a_model(stage: str, data_root: Path) -> None:
    data = ContinualDataModule(str(data_root), ["01"], num_workers=0)
    data.setup("fit")
    with pytest.raises(DataError, match="does not know its model yet: pass both to a Trainer"):
        getattr(data, f"{stage}_dataloader")()


@pytest.mark.parametrize(
    "dataset", [IMAGES, TensorDataset(IMAGES, torch.zeros(4)), [{"image": one} for one in IMAGES]]
)
def test_predict_takes_loaders_of_images(dataset: object, tiny_model: Callable) -> None:
    model = with_tasks(tiny_model())
    found = trainer().predict(model, DataLoader(dataset, batch_size=2))  # type: ignore[arg-type]
    with torch.no_grad():
        expected = torch.cat([model(half).score for half in IMAGES.split(2)])
    assert torch.equal(torch.cat([one.score for one in found]), expected)


USES: dict[str, Callable[[MoLEFlow], object]] = {
    "call": lambda model: model(IMAGES),
    "test": lambda model: model.test_step({"image": IMAGES, "task": torch.zeros(4).long()}, 0),
    "predict": lambda model: trainer().predict(model, DataLoader(IMAGES, batch_size=2)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_model_that_has_learned_nothing_says_so(
    use: Callable[[MoLEFlow], object], tiny_model: Callable
) -> None:
    model = tiny_model()
    with pytest.raises(CheckpointError, match="this model has learned no task yet"):
        use(model)


@pytest.mark.parametrize("callbacks", [[], [EvaluationCallback(map_size=48)]])
def test_test_of_products_that_the_model_does_not_know_is_refused(
    callbacks: list, learned: tuple[Path, MoLEFlow], data_root: Path, tmp_path: Path
) -> None:
    model = MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")
    data = ContinualDataModule(str(data_root), ["c"], num_workers=0)
    with pytest.raises(ConfigError, match=r"data.tasks \['c'\] has no product of this model"):
        trainer(callbacks=callbacks, default_root_dir=tmp_path).test(model, data)


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
@pytest.mark.parametrize("callback", [None, TaskSchedulerCallback, EvaluationCallback])
def test_loaders_of_ones_own_are_refused_in_a_sentence(
    verb: str, callback: Callable | None, tiny_model: Callable
) -> None:
    callbacks = [] if callback is None else [callback()]
    with pytest.raises(MoLEFlowError, match="ContinualDataModule"):
        getattr(trainer(callbacks=callbacks, max_epochs=1), verb)(
            with_tasks(tiny_model()), DataLoader(IMAGES, batch_size=2)
        )


@pytest.mark.parametrize("callbacks", [[], [EvaluationCallback(map_size=48)]])
def test_test_that_nobody_evaluates_says_so(
    callbacks: list, learned: tuple[Path, MoLEFlow], data_root: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    model = MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")
    data = ContinualDataModule(str(data_root), ["01", "b"], num_workers=0)
    with caplog.at_level(logging.WARNING, "moleflow_pl"):
        trainer(callbacks=callbacks, default_root_dir=tmp_path).test(model, data)
    assert ("trainer.test gives no result by itself" in caplog.text) == (not callbacks)
