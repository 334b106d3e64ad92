"""A command that ends before its work is done: one line, how to go on, and no exit code of 0."""

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl.callbacks import EvaluationCallback, PredictionWriter
from moleflow_pl.errors import CheckpointError
from tests.helpers.commands import MODEL, run_here
from tests.helpers.killing import assert_same_end
from tests.helpers.models import fit
from tests.helpers.story import Story


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Let ctrl-C interrupt, as in a terminal: what runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


LIMITS = ("max_steps=5", "max_steps=3", "limit_train_batches=0")
SIGNALS = (signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow))


def stop_of(where: Path, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """Exit code of a command that is stopped, and the one line it says of that."""
    with pytest.raises(SystemExit) as error:
        run_here(where, *args)
    told = [line for line in capsys.readouterr().err.splitlines() if "moleflow: " in line]
    assert len(told) == 1
    assert isinstance(error.value.code, int)
    return error.value.code, told[0]


def go_on(where: Path, told: str) -> None:
    """Run the command that a line offers."""
    offered = shlex.split(told.partition("resume with: ")[2])
    assert offered[0] == "moleflow"
    run_here(where, *offered[1:])


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
def test_fit_that_a_limit_ends_fails_and_its_line_leads_to_the_same_end(
    limit: str, story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    code, told = stop_of(tmp_path, capsys, *story.fit_into(run), f"--trainer.{limit}")
    assert code == 1
    assert told.startswith(
        f"moleflow: {int(limit.endswith('5'))} of 2 tasks learned; resume with: "
    )
    go_on(tmp_path, told)
    assert_same_end(run, story.moved)


def test_epoch_that_a_limit_cuts_is_not_counted(tmp_path: Path, data_root: Path) -> None:
    fit(tmp_path, data_root, ["01"], trainer={"max_steps": 3})
    loaded = MoLEFlow.load_from_checkpoint(tmp_path / "last.ckpt")
    assert [task.epochs_done for task in loaded.schedule.tasks] == [1]


def test_trainer_warns_of_a_fit_that_a_limit_ended(
    tmp_path: Path, data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, data_root, ["01", "b"], trainer={"max_steps": 5})
    (warned,) = [text for text in caplog.messages if "tasks learned" in text]
    assert warned.startswith("1 of 2 tasks learned; resume with trainer.fit")
    assert str(tmp_path / "last.ckpt") in warned


def test_fit_that_a_limit_ends_fails_in_one_line_and_its_table_says_after_which_task(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = story.fit_into(tmp_path / "run")
    with pytest.raises(SystemExit) as error:
        run_here(tmp_path, *args, "--trainer.max_steps=5")
    assert error.value.code == 1
    said = capsys.readouterr()
    assert "after task 1 of 2" in said.out
    assert "moleflow: 1 of 2 tasks learned; resume with: moleflow fit " in said.err


def test_trial_leaves_a_run_and_its_folder_as_they_were(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = story.copy_to(tmp_path)

    def files() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    before = files()
    trial, one = "--trainer.fast_dev_run=true", "--schedule.epochs_per_task=1"
    code, told = stop_of(tmp_path, capsys, *story.fit_into(run), trial, one)
    assert code == 1
    assert "nothing was saved; resume with: " in told
    checkpoint = f"--ckpt_path={run / 'last.ckpt'}"
    for verb in ("test", "predict"):
        run_here(tmp_path, verb, checkpoint, trial)
    assert files() == before


def test_test_of_a_part_of_the_images_keeps_the_report(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = story.copy_to(tmp_path)
    before = (run / "report" / "summary.json").read_bytes()
    args = ["test", f"--ckpt_path={run / 'last.ckpt'}"]
    run_here(tmp_path, *args, "--trainer.limit_test_batches=1")
    assert "no report was written" in capsys.readouterr().out
    assert (run / "report" / "summary.json").read_bytes() == before
    assert not (run / "report~1").exists()


def test_predict_of_a_part_of_the_images_is_not_complete(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = story.copy_to(tmp_path)
    args = ["predict", f"--ckpt_path={run / 'last.ckpt'}", "--predictions.heatmaps=false"]
    run_here(tmp_path, *args, "--trainer.limit_predict_batches=1")
    assert "some images were left out" in capsys.readouterr().out
    run_here(tmp_path, *args)
    rows = (run / "predictions" / "predictions.csv").read_text().splitlines()[1:]
    assert len({row.split(",")[0] for row in rows}) == len(rows) == 12


class Stopper:
    """Sends a signal to this process at the first call of a method."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: type, method: str, signum: int) -> None:
        self.calls = 0
        original = getattr(owner, method)

        def stopping(*args: object, **options: object) -> object:
            self.calls += 1
            if self.calls == 1:
                os.kill(os.getpid(), signum)
            return original(*args, **options)

        patch.setattr(owner, method, stopping)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_fit_that_a_signal_stops_says_how_far_it_came_and_resumes_to_the_same_end(
    signum: int, story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        Stopper(patch, EvaluationCallback, "_evaluate_if_due", signum)
        code, told = stop_of(tmp_path, capsys, *story.fit_into(run))
    assert code == 128 + signum
    assert told.startswith("moleflow: 0 of 2 tasks learned (")
    go_on(tmp_path, told)
    assert_same_end(run, story.moved)


@pytest.mark.parametrize("signum", SIGNALS)
def test_predict_stops_at_a_signal_with_the_batch_at_hand_written(
    signum: int, story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = story.copy_to(tmp_path)
    args = ["predict", f"--ckpt_path={run / 'last.ckpt'}", "--predictions.heatmaps=false"]
    with monkeypatch.context() as patch:
        Stopper(patch, PredictionWriter, "write_on_batch_end", signum)
        code, told = stop_of(tmp_path, capsys, *args)
    assert code == 128 + signum
    table = run / "predictions" / "predictions.csv"
    written = 4 if signum == signal.SIGTERM else 0
    assert len(table.read_text().splitlines()) == 1 + written
    go_on(tmp_path, told)
    assert len(table.read_text().splitlines()) == 1 + 12


@pytest.mark.parametrize("verb", ["test", pytest.param("validate", marks=pytest.mark.slow)])
def test_scoring_that_is_terminated_fails_and_keeps_the_report(
    verb: str, story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = story.copy_to(tmp_path)
    step = "test_step" if verb == "test" else "validation_step"
    Stopper(monkeypatch, MoLEFlow, step, signal.SIGTERM)
    args = [verb, f"--ckpt_path={run / 'last.ckpt'}", "--data.batch_size=1"]
    code, told = stop_of(tmp_path, capsys, *args)
    assert code == 128 + signal.SIGTERM
    assert told.startswith(f"moleflow: stopped (SIGTERM); resume with: moleflow {verb} ")
    assert story.summary_of(run) == story.summary


@pytest.fixture(scope="module")
def half_learned(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """The checkpoint of a fit that stopped within its first task."""
    run = tmp_path_factory.mktemp("half")
    fit(run, data_root, ["01", "b"], trainer={"max_steps": 3})
    return run / "last.ckpt"


HALF = r"has learned no task yet \(1 of 2 epochs of '01' are done\): finish its fit first"


@pytest.mark.parametrize("verb", ["predict", "test", "validate", "export"])
def test_half_learned_model_is_an_error_in_a_sentence(
    verb: str, half_learned: Path, data_root: Path, tmp_path: Path
) -> None:
    args = [verb, f"--ckpt_path={half_learned}"]
    if verb != "export":
        args.append("--model.use_position=true")
        args += [f"--data.root={data_root}", "--data.tasks=[01, b]", "--data.num_workers=0"]
        args += [arg for arg in MODEL if arg.startswith("--model")]
    if verb == "predict":
        args.append(f"--data.predict_path={data_root}")
    with pytest.raises(SystemExit, match=HALF):
        run_here(tmp_path, *args)


def test_predictor_of_a_half_learned_model_is_an_error_in_a_sentence(half_learned: Path) -> None:
    with pytest.raises(CheckpointError, match=HALF):
        Predictor.load(half_learned)
