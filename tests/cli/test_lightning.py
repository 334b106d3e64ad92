import logging
from pathlib import Path

import pytest

from moleflow_pl.checkpoints.io import write_checkpoint
from moleflow_pl.cli import lightning as cli
from moleflow_pl.errors import CheckpointError, ConfigError, OutputError
from tests.helpers.checkpoints import bare_checkpoint
from tests.helpers.commands import MODEL, failure
from tests.helpers.parsing import parse


def test_a_run_that_wrote_no_checkpoint_yet_starts_from_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run" / "last.ckpt"
    args = ["fit", f"--ckpt_path={path}", "--config=demo"]
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        parsed = parse(*args, f"--trainer.default_root_dir={path.parent}")
    assert parsed.missing == path
    assert parsed.config.fit.ckpt_path is None
    assert f"no checkpoint at {path} yet: the run starts from the beginning" in caplog.messages


def test_a_missing_checkpoint_of_another_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run" / "last.ckpt"
    with pytest.raises(CheckpointError, match=f"no checkpoint at {path}"):
        parse("fit", f"--ckpt_path={path}", "--config=demo")


def test_a_checkpoint_that_was_written_once_is_missed(tmp_path: Path) -> None:
    last, task = tmp_path / "last.ckpt", tmp_path / "tasks" / "00-a.ckpt"
    assert cli.has_no_checkpoint_yet(last)
    assert not cli.has_no_checkpoint_yet(task)
    task.parent.mkdir()
    write_checkpoint(bare_checkpoint(), task)
    assert not cli.has_no_checkpoint_yet(last)  # the run got past its first task


def test_arguments_of_a_checkpoint_yield_to_the_config_and_to_the_command_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.yaml").write_text("model: {lora_rank: 6, bank_mb: 6}")
    stored = "model: {lora_rank: 5, bank_mb: 5, smooth: 5}\ntrainer: {max_steps: 5}"
    write_checkpoint(bare_checkpoint(stored), tmp_path / "last.ckpt")
    given = [f"--ckpt_path={tmp_path / 'last.ckpt'}", f"--config={tmp_path / 'c.yaml'}"]
    config = parse("test", *given, "--model.lora_rank=7").config.test
    assert (config.model.lora_rank, config.model.bank_mb, config.model.smooth) == (
        7,
        6,
        5,
    )
    assert config.trainer.default_root_dir == str(tmp_path)


def test_later_configs_override_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {grid: 8}")
    own = f"--config={tmp_path / 'mine.yaml'}"
    model = parse("fit", "--config", "demo", own).config.fit.model
    assert (model.grid, model.backbone) == (8, "tf_efficientnet_lite0")
    assert parse("fit", own, "--config", "demo").config.fit.model.grid == 16


@pytest.mark.parametrize(("epochs", "refused"), [("-1", False), ("3", True)])
def test_the_schedule_decides_how_long_a_fit_lasts(epochs: str, refused: bool) -> None:
    flags = ["--config=demo", f"--trainer.max_epochs={epochs}"]
    if not refused:
        assert parse("fit", *flags).config.fit.trainer.max_epochs == -1
        return
    with pytest.raises(ConfigError, match=r"trainer.max_epochs 3: .* schedule.epochs_per_task"):
        parse("fit", *flags)


def test_an_unknown_preset_ends_before_anything_is_built() -> None:
    with pytest.raises(ConfigError, match="Did you mean demo"):
        parse("fit", "--config", "demoo")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--schedule.epochs=3", "no option --schedule.epochs\ndid you mean --schedule.epochs_p"),
        (
            "--config={modle: {lora_rank: 3}}",
            "no option --modle.lora_rank\ndid you mean --model.",
        ),
        ("--model.lora_rank=x", "--model.lora_rank x: it takes int"),
    ],
)
def test_a_usage_error_is_explained_in_three_lines(flag: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse("fit", "--config=demo", flag)
    lines = str(error.value).splitlines()
    assert said in str(error.value)
    assert lines[-1].startswith("all options: moleflow fit --help model | data")
    assert len(lines) <= 3


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_mistyped_option_of_each_verb_gets_three_lines(verb: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(verb, "--data.rot=x")
    assert str(error.value).splitlines()[:2] == [
        f"moleflow {verb} has no option --data.rot",
        "did you mean --data.root?",
    ]


def test_one_product_is_a_list_of_one() -> None:
    assert parse("fit", "--config=demo", "--data.tasks=01").config.fit.data.tasks == ["01"]


def restoring_with(message: str, file: str, function: str) -> Exception:
    """An error raised in a function of Lightning's, as far as its traceback tells."""
    source = f"def {function}():\n    raise KeyError({message!r})\n"
    scope: dict = {}
    exec(compile(source, f"/site-packages/lightning/{file}.py", "exec"), scope)
    try:
        scope[function]()
    except KeyError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("file", "function", "named"),
    [
        ("checkpoint_connector", "_restore_states", True),
        ("checkpoint_connector", "resume_start", True),
        ("checkpoint_connector", "dump_checkpoint", False),
        ("trainer", "restore", False),
    ],
)
def test_errors_while_lightning_restores_name_the_checkpoint(
    file: str, function: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(args: list[str]) -> None:
        raise restoring_with("epoch", file, function)

    monkeypatch.setattr(cli, "build", build)
    with pytest.raises(
        CheckpointError if named else KeyError, match="x.ckpt" if named else "epoch"
    ):
        cli.main(["fit", "--ckpt_path=x.ckpt"])


def test_backbone_without_maps_is_refused_before_a_run_is_moved(
    data_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()  # of an earlier run
    said = failure(
        tmp_path, "fit", f"--data.root={data_root}", "--data.tasks=[b]", *MODEL,
        "--model.backbone=levit_128s", "--model.image_size=50",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert "levit_128s gives no feature maps of images of 50 x 50" in said
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("file", "it is a file"), ("a" * 300, "name is too long"), ("loop/x", "leads back to itself")],
)
@pytest.mark.parametrize("resumes", [False, True])
def test_place_that_can_be_no_run_folder_is_refused_before_any_work(
    name: str, reason: str, resumes: bool, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    run = tmp_path / name
    given = [f"--ckpt_path={run / 'last.ckpt'}"] if resumes else []
    with pytest.raises(OutputError, match=f"cannot write .*{reason}"):
        parse("fit", "--config=demo", f"--trainer.default_root_dir={run}", *given)


def test_missing_checkpoint_below_a_link_to_itself_is_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = tmp_path / "loop" / "last.ckpt"
    with pytest.raises(CheckpointError, match=f"no checkpoint at {path}"):
        parse("fit", f"--ckpt_path={path}", "--config=demo")


def test_refused_folder_of_predictions_stays_as_it_is(tmp_path: Path) -> None:
    write_checkpoint(bare_checkpoint("{}"), tmp_path / "last.ckpt")
    images = tmp_path / "images"
    images.mkdir()
    (images / "1.png").touch()
    given = [f"--ckpt_path={tmp_path / 'last.ckpt'}", f"--data.predict_path={images}"]
    with pytest.raises(OutputError, match="holds other files than predictions"):
        parse("predict", *given, f"--predictions.folder={images}")
    assert [path.name for path in images.iterdir()] == ["1.png"]


def test_file_in_the_place_of_the_report_is_named_before_a_test(tmp_path: Path) -> None:
    write_checkpoint(bare_checkpoint("{}"), tmp_path / "last.ckpt")
    (tmp_path / "report").touch()
    with pytest.raises(OutputError, match="report: it is a file; move it away"):
        parse("test", f"--ckpt_path={tmp_path / 'last.ckpt'}")
