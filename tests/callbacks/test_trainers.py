import json
import logging
from pathlib import Path

import pytest
import torch

from moleflow_pl import ContinualDataModule, MoLEFlow, Predictor, add_product
from moleflow_pl.callbacks import make_trainer
from moleflow_pl.errors import ConfigError, DataError
from tests.helpers.models import TINY_MODEL

QUIET = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False,
    "epochs_per_task": 2,
}  # fmt: skip
DATA = {"batch_size": 4, "num_workers": 0}


def new_model(**options: object) -> MoLEFlow:
    torch.manual_seed(0)
    return MoLEFlow(**{**TINY_MODEL, **options})


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, MoLEFlow]:
    """A model that learned `01` from its tree, and then `nuts`, from the good images of `b`."""
    run, model = tmp_path_factory.mktemp("grown"), new_model(score="bank")
    add_product(model, "01", data_root / "01", run, DATA, **QUIET)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    add_product(model, "nuts", data_root / "b" / "train" / "good", run, DATA, **QUIET)
    after = model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    return run, model


def test_a_fit_and_a_test_in_python_print_nothing(
    data_root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a command that ran in this process shows messages until its end
    monkeypatch.setattr(logging.getLogger("moleflow_pl"), "handlers", [])
    model, data = new_model(), ContinualDataModule(str(data_root), ["01"], **DATA)
    make_trainer(tmp_path, **QUIET).fit(model, data)
    make_trainer(tmp_path, **QUIET).test(model, data)
    assert capfd.readouterr().out == ""


def test_a_python_program_sees_the_bar_of_the_run_and_no_advertisement(
    data_root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.setattr("moleflow_pl.callbacks.run_bar.can_draw", lambda stream: True)
    model, data = new_model(), ContinualDataModule(str(data_root), ["01"], **DATA)
    options = {**QUIET, "enable_progress_bar": True}
    make_trainer(tmp_path, **options).fit(model, data)
    curves = (tmp_path / "metrics.csv").read_text()
    make_trainer(tmp_path, **options).test(model, data)
    shown = capfd.readouterr().err
    for words in ("features of 01", "1/1 01, epoch 2 of 2", "test of 01", "left"):
        assert words in shown
    assert "Tip" not in shown
    told = [str(one.message) for one in recwarn.list]
    assert not [text for text in told if "eval mode" in text or "deleted" in text]
    assert (tmp_path / "metrics.csv").read_text() == curves
    assert not (tmp_path / "metrics~1.csv").exists()


def test_a_python_program_sees_the_tables_that_it_asks_logging_for(
    data_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = ContinualDataModule(str(data_root), ["01"], **DATA)
    with caplog.at_level("INFO", "moleflow_pl"):
        make_trainer(tmp_path, **QUIET).fit(new_model(), data)
    assert any("routed (in brackets: oracle)" in message for message in caplog.messages)


def test_products_added_one_by_one_are_learned_as_in_one_fit(
    grown: tuple[Path, MoLEFlow], data_root: Path, tmp_path: Path
) -> None:
    model = new_model(score="bank")
    folders = {"01": str(data_root / "01"), "nuts": str(data_root / "b")}
    data = ContinualDataModule(folders, ["01", "nuts"], **DATA)
    make_trainer(tmp_path, **QUIET).fit(model, datamodule=data)
    expected, found = model.state_dict(), grown[1].state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    calibrations = [m.schedule.tasks[1].calibration for m in (model, grown[1])]
    assert calibrations[0] == calibrations[1]


def test_what_the_model_learned_is_in_the_run_folder_and_goes_on_from_there(
    grown: tuple[Path, MoLEFlow], data_root: Path, tmp_path: Path
) -> None:
    run, model = grown
    assert sorted(path.name for path in (run / "tasks").iterdir()) == ["00-01.ckpt", "01-nuts.ckpt"]
    curves = {path.name: path.read_text() for path in run.glob("metrics*.csv")}
    assert {name for name, text in curves.items() if "train/nuts" in text} == {"metrics.csv"}
    assert any("train/01" in text for text in curves.values())
    summary = json.loads((run / "report" / "summary.json").read_text())
    assert summary["tasks"] == ["01", "nuts"]
    restored = MoLEFlow.load_from_checkpoint(run / "last.ckpt")
    task = add_product(restored, "c", data_root / "c", tmp_path, DATA, **QUIET)
    assert (task.name, task.learned, restored.schedule.names) == ("c", True, ["01", "nuts", "c"])
    resumed = new_model(score="bank")
    data = ContinualDataModule(str(data_root), ["01", "nuts", "c"], **DATA)
    make_trainer(tmp_path / "b", **QUIET).fit(resumed, data, ckpt_path=run / "last.ckpt")
    assert resumed.schedule.tasks[2].epochs_done == 2
    old = model.state_dict()
    assert all(torch.equal(restored.state_dict()[key], tensor) for key, tensor in old.items())


def test_a_predictor_takes_the_model_itself_and_its_thresholds(
    grown: tuple[Path, MoLEFlow], data_root: Path
) -> None:
    image, model = data_root / "01" / "test" / "square" / "000.png", grown[1]
    found = Predictor(model, thresholds={"nuts": 3.0})(image)
    assert (found.product, found.label) == ("01", "anomalous")
    assert found.threshold == model.schedule.tasks[0].calibration.score_threshold.value  # type: ignore[union-attr]
    found = Predictor(model, thresholds={"01": found.score})(image)
    assert (found.label, found.threshold, found.normalised_score) == ("normal", found.score, 0.5)
    with pytest.raises(
        ConfigError, match=r"no product 'x' in this model: it knows \['01', 'nuts'\]"
    ):
        Predictor(model, thresholds={"x": 1.0})
    with pytest.raises(ConfigError, match="a threshold must be a finite number, got"):
        Predictor(model, thresholds={"01": float("nan")})


def test_what_cannot_be_added_is_said_in_a_sentence(
    grown: tuple[Path, MoLEFlow], data_root: Path, tmp_path: Path
) -> None:
    model = new_model()
    with pytest.raises(DataError, match="is not a folder"):
        add_product(model, "x", tmp_path / "none", tmp_path, DATA, **QUIET)
    with pytest.raises(DataError, match="no product 'x'|no image to learn"):
        add_product(model, "x", tmp_path, tmp_path, DATA, **QUIET)
    assert not model.schedule.tasks
    assert not model.inspector.flow.tasks
    with pytest.raises(DataError, match="more than once"):
        add_product(grown[1], "01", data_root / "01", tmp_path, DATA, **QUIET)
    with pytest.raises(DataError, match="not a valid product name"):
        add_product(model, "a/b", data_root / "01", tmp_path, DATA, **QUIET)
