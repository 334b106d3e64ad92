import subprocess
import sys
from pathlib import Path

import pytest

from moleflow_pl.cli import experts, review
from moleflow_pl.cli.main import VERBS
from moleflow_pl.cli.run_argument import ACTIONS, CHECKPOINT, PLACES, with_options
from moleflow_pl.errors import CheckpointError, ConfigError

ROOT = Path(__file__).parents[2]
MODEL_VERBS = [verb for verb, places in PLACES.items() if places]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the names of its checkpoints."""
    folder = tmp_path / "run"
    (folder / "tasks").mkdir(parents=True)
    (folder / "last.ckpt").touch()
    (folder / "tasks" / "00-a.ckpt").touch()
    return folder


def test_verbs_with_words_are_verbs() -> None:
    assert {*PLACES, *ACTIONS} <= set(VERBS)


@pytest.mark.parametrize("verb", MODEL_VERBS)
def test_a_run_is_named_by_its_folder_or_by_a_file_with_the_option_or_without(
    verb: str, run: Path
) -> None:
    last, task = run / "last.ckpt", run / "tasks" / "00-a.ckpt"
    assert with_options([verb, str(run)]) == [verb, "--ckpt_path", str(last)]
    assert with_options([verb, str(task)]) == [verb, "--ckpt_path", str(task)]
    assert with_options([verb, "--ckpt_path", str(run)]) == [verb, "--ckpt_path", str(last)]
    assert with_options([verb, f"--ckpt_path={task}"]) == [verb, f"--ckpt_path={task}"]


def test_predict_takes_the_images_as_its_second_word_among_options(run: Path) -> None:
    last = str(run / "last.ckpt")
    images = ["--data.predict_path", "new"]
    asked = with_options(["predict", "--product", "a", str(run), "--x=1", "new", "--y", "2"])
    assert asked == ["predict", "--product", "a", "--ckpt_path", last, "--x=1", *images, "--y", "2"]
    assert with_options(["predict", f"--ckpt_path={last}", *images])[2:] == images


def test_a_folder_resumes_a_fit_and_opens_experts(run: Path) -> None:
    for start in (["fit"], ["experts", "list"]):
        args = [*start, f"--ckpt_path={run}", "--x=a"]
        assert with_options(args) == [*start, f"--ckpt_path={run / 'last.ckpt'}", "--x=a"]


def test_every_action_of_a_model_takes_its_run_as_the_first_word(run: Path) -> None:
    last = str(run / "last.ckpt")
    assert ACTIONS["experts"] == tuple(experts.ACTIONS)
    assert ACTIONS["review"] == tuple(n for n, (_, o) in review.ACTIONS.items() if CHECKPOINT in o)
    for verb, actions in ACTIONS.items():
        for action in actions:
            asked = with_options([verb, action, "--x", "1", str(run), "b"])
            assert asked == [verb, action, "--x", "1", CHECKPOINT, last, "b"]
            asked = with_options([verb, action, "b", CHECKPOINT, str(run)])
            assert asked == [verb, action, "b", CHECKPOINT, last]


@pytest.mark.parametrize("verb", MODEL_VERBS)
def test_a_verb_without_a_model_is_told_how_it_is_named(verb: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{verb} needs a trained model: moleflow {verb} RUN"):
        with_options([verb, "--config=demo"])
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.ckpt"):
        with pytest.raises(CheckpointError, match=f"no checkpoint at {path}.*folder of a fit"):
            with_options([verb, f"--ckpt_path={path}"])
    for shown in ("--print_config", "--help"):
        assert with_options([verb, shown]) == [verb, shown]


@pytest.mark.parametrize("verb", MODEL_VERBS)
@pytest.mark.parametrize("mistyped", ["--ckpt_pth", "--ckpt-path", "--ckpt"])
def test_a_mistyped_option_for_the_model_is_named(verb: str, mistyped: str, run: Path) -> None:
    for words in ([mistyped, str(run)], [f"{mistyped}={run}"]):
        with pytest.raises(ConfigError) as error:
            with_options([verb, *words])
        assert str(error.value).splitlines() == [
            f"moleflow {verb} has no option {mistyped}",
            "did you mean --ckpt_path?",
            f"all options: moleflow {verb} --help",
        ]


def test_a_lost_checkpoint_of_a_run_is_left_to_who_offers_the_one_before(run: Path) -> None:
    (run / "last.ckpt").unlink()
    assert with_options(["test", str(run)])[-1] == str(run / "last.ckpt")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["predict", "run", "a.png", "b.png"], r"unexpected argument 'b.png': .* quoted: 'new/\*"),
        (["fit", "demo"], "unexpected argument 'demo': .* a preset .* follows --config"),
        (["fit", "--data.tasks", "a", "b"], r"unexpected argument 'b': .* list is quoted: '\[a, b"),
        (["report", "run"], "unexpected argument 'run': .* every run follows a --run of its own"),
        (["report", "--run", "a", "b"], "unexpected argument 'b': .*: --run RUN --run RUN"),
        (["test", "run", "--ckpt_path=x"], "'run' and --ckpt_path mean the same"),
    ],
)
def test_a_word_that_stands_for_nothing_is_refused_with_a_hint(args: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_options(args)


def test_a_command_without_a_model_ends_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom moleflow_pl.cli import main as cli\n"
        "try: cli.main(['predict', '--data.predict_path=new'])\n"
        "except SystemExit as error: print(error)\n"
        "sys.exit(bool({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("moleflow: predict needs a trained model: moleflow predict RUN")
    assert len(ended.stdout.splitlines()) == 1


@pytest.mark.parametrize("name", ["a" * 300, "loop/x"])
@pytest.mark.parametrize("end", ["", "/last.ckpt"])
def test_run_whose_name_no_disk_takes_is_not_there(name: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        with_options(["test", f"{tmp_path / name}{end}"])
