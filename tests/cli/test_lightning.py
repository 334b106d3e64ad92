from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from moleflow_pl.checkpoints.io import write_checkpoint
from moleflow_pl.cli import lightning
from moleflow_pl.cli.lightning import (
    begin_anew,
    load_yaml,
    never_written,
    option,
    quote_tasks,
    while_restoring,
    without,
)
from moleflow_pl.errors import CheckpointError, ConfigError
from tests.helpers.checkpoints import bare_checkpoint
from tests.helpers.parsing import parse

STORED = {
    "seed_everything": 7,
    "model": {"lora_rank": 4, "coupling_layers": 3, "backbone": "test_vit", "layers": [0]},
    "data": {"root": "old", "tasks": ["01", "b"]},
    "schedule": {"epochs_per_task": 5},
    "trainer": {"gradient_clip_val": 0.25, "max_epochs": -1},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint that holds no more than the arguments of its run."""
    path = tmp_path / "run" / "last.ckpt"
    write_checkpoint(bare_checkpoint(yaml.safe_dump(STORED)), path)
    return path


def test_options_of_the_command_line_are_found_in_both_spellings() -> None:
    assert option(["fit", "--ckpt_path", "a"], "--ckpt_path") == "a"
    assert option(["fit", "--ckpt_path=a"], "--ckpt_path") == "a"
    assert option(["fit", "--ckpt_path"], "--ckpt_path") is None
    assert option(["fit", "--ckpt_paths=a"], "--ckpt_path") is None
    assert without(["fit", "--ckpt_path", "a", "--x=1", "--ckpt_path=b"], "--ckpt_path") == [
        "fit", "--x=1",
    ]  # fmt: skip


def test_arguments_of_the_command_line_come_before_those_of_the_checkpoint(
    checkpoint: Path,
) -> None:
    config = parse("fit", f"--ckpt_path={checkpoint}", "--model.lora_rank=8").config.fit
    assert (config.model.lora_rank, config.model.coupling_layers) == (8, 3)
    assert (config.seed_everything, config.schedule.epochs_per_task) == (7, 5)
    assert config.data.tasks == ["01", "b"]
    assert config.trainer.gradient_clip_val == 0.25
    assert config.trainer.default_root_dir == str(checkpoint.parent)
    assert config.ckpt_path == str(checkpoint)


def test_test_takes_over_the_model_and_the_data_but_not_the_trainer(checkpoint: Path) -> None:
    config = parse("test", "--ckpt_path", str(checkpoint), "--data.root=new").config.test
    assert (config.model.lora_rank, config.data.root, config.data.tasks) == (4, "new", ["01", "b"])
    assert config.trainer.gradient_clip_val == 0.5
    assert config.trainer.default_root_dir == str(checkpoint.parent)


def test_fit_has_the_defaults_that_task_after_task_needs() -> None:
    trainer = parse("fit", "--data.tasks=[a]").config.fit.trainer
    assert (trainer.max_epochs, trainer.num_sanity_val_steps) == (-1, 0)
    assert trainer.use_distributed_sampler is False
    assert trainer.gradient_clip_val == 0.5


def test_limit_on_epochs_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ConfigError, match=r"trainer.max_epochs 3: .*schedule.epochs_per_task"):
        parse("fit", "--data.tasks=[a]", "--trainer.max_epochs=3")


def test_product_is_short_for_that_of_the_predictions(checkpoint: Path) -> None:
    for flags in (["--product", "b"], ["--product=b"], ["--predictions.product=b"]):
        config = parse("predict", f"--ckpt_path={checkpoint}", *flags).config.predict
        assert config.predictions.product == "b"


def test_run_stopped_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "run" / "last.ckpt"
    flags = ["--data.tasks=[a]", f"--trainer.default_root_dir={path.parent}"]
    command = parse("fit", f"--ckpt_path={path}", *flags)
    assert command.missing == path
    assert command.config.fit.ckpt_path is None
    # a task's checkpoint is what a run of that state goes on from
    write_checkpoint(bare_checkpoint(), path.parent / "tasks" / "00-a.ckpt")
    assert not never_written(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*last.ckpt"):
        parse("fit", f"--ckpt_path={path}", *flags)


def test_other_commands_and_other_names_need_their_checkpoint(tmp_path: Path) -> None:
    for verb, name in (("test", "last.ckpt"), ("predict", "last.ckpt"), ("fit", "other.ckpt")):
        with pytest.raises(CheckpointError, match=f"no checkpoint at .*{name}"):
            parse(verb, f"--ckpt_path={tmp_path / name}")


def test_checkpoint_of_another_run_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(lightning, "rank_zero_info", said.append)
    begin_anew(tmp_path / "run" / "last.ckpt", tmp_path / "run")
    assert len(said) == 1
    assert "begins anew" in said[0]
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*run/last.ckpt"):
        begin_anew(tmp_path / "run" / "last.ckpt", tmp_path / "other")


def test_names_of_products_stay_text_and_nothing_else_does() -> None:
    text = "data: {tasks: [01, [no, 1.0]], root: 5}\nmodel: {lora_alpha: 1e-1, use_lora: no}\n"
    assert load_yaml(text) == {
        "data": {"tasks": ["01", ["no", "1.0"]], "root": 5},
        "model": {"lora_alpha": 0.1, "use_lora": False},
    }
    assert load_yaml("") is None
    assert quote_tasks(["--data.tasks=x", "--other=[01]"]) == ["--data.tasks=x", "--other=[01]"]
    assert quote_tasks(["--data.tasks=[01"]) == ["--data.tasks=[01"]  # no YAML: left to the parser


def test_yaml_of_a_config_builds_no_object() -> None:
    with pytest.raises(yaml.constructor.ConstructorError):
        load_yaml("x: !!python/object/apply:os.getcwd []")


def raised_in(function: str, file: str) -> Exception:
    """An error that comes from a function of some file."""
    scope: dict = {}
    exec(compile(f"def {function}(): raise KeyError('x')", file, "exec"), scope)
    try:
        scope[function]()
    except KeyError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("function", "file", "restoring"),
    [
        ("restore_optimizers", "/x/checkpoint_connector.py", True),
        ("_restore_modules", "/x/checkpoint_connector.py", True),
        ("resume_start", "/x/checkpoint_connector.py", True),
        ("dump_checkpoint", "/x/checkpoint_connector.py", False),
        ("restore_optimizers", "/x/other.py", False),
    ],
)
def test_errors_of_lightnings_restoring_are_told_from_others(
    function: str, file: str, restoring: bool
) -> None:
    assert while_restoring(raised_in(function, file)) == restoring


def test_error_of_restoring_names_the_checkpoint_and_others_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(error: Exception) -> None:
        def fail(args: list[str]) -> SimpleNamespace:
            raise error

        monkeypatch.setattr(lightning, "build", fail)
        lightning.main(["fit", "--ckpt_path=c.ckpt"])

    with pytest.raises(CheckpointError, match="c.ckpt is damaged: KeyError"):
        run(raised_in("restore_loops", "/x/checkpoint_connector.py"))
    with pytest.raises(KeyError):
        run(raised_in("training_step", "/x/module.py"))
