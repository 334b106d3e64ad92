"""A run that is killed and goes on ends as the one that was not."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moleflow_pl.callbacks import RunCheckpoint
from moleflow_pl.checkpoints.run_folder import LOCK
from moleflow_pl.checkpoints.schema import CONFIG_KEY, STATE_KEY
from moleflow_pl.cli import main as cli
from tests.helpers.checkpoints import Bomb, save_sealed
from tests.helpers.commands import failure, run_here
from tests.helpers.killing import WRITES, draw_moment, kill_and_go_on
from tests.helpers.models import fit
from tests.helpers.products import draw_product
from tests.helpers.story import Story


@pytest.mark.slow
def test_run_killed_while_it_writes_a_checkpoint_ends_as_the_unbroken_one(
    story: Story, tmp_path: Path
) -> None:
    moment = {"only": WRITES, "event": 2, "delay": 0.005}
    assert kill_and_go_on(story, story.where / "killed_once", [moment])


@pytest.mark.slow
def test_run_killed_at_three_moments_ends_as_the_unbroken_one(story: Story, tmp_path: Path) -> None:
    chance = random.Random(0)
    begun = {"only": "config.yaml.", "event": 1, "delay": chance.uniform(0, 0.1)}
    hits = 0
    while hits < 3:
        moments = [draw_moment(chance, story.events) for _ in range(3 - hits)]
        if not hits:
            moments[0] = begun  # before the first checkpoint
            moments[1] = {"only": WRITES, "event": chance.randint(1, 4), "delay": 0.005}
        hits += len(kill_and_go_on(story, story.where / "killed", moments))


@pytest.mark.parametrize("verb", ["fit", "test", "validate", "predict"])
def test_no_command_runs_code_of_a_checkpoint(verb: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for name in ("last.ckpt", "other.ckpt"):
        torch.save({STATE_KEY: {}, CONFIG_KEY: "{}", "x": Bomb(touched)}, tmp_path / name)
        with pytest.raises(SystemExit, match=f"{name} is damaged or not a checkpoint"):
            cli.main([verb, f"--ckpt_path={tmp_path / name}"])
    assert not touched.exists()


def test_products_of_odd_names_are_learned_and_stay_in_the_run(tmp_path: Path) -> None:
    names = ["[red]a.b 'x' \"y\"", "..<b>", "ネジ" * 30]
    for seed, name in enumerate(names):
        draw_product(tmp_path / "data", name, seed, train=4)
    fit(tmp_path / "run", tmp_path / "data", [[names[0], names[1]], names[2]], epochs=1)
    found = sorted(path.name for path in (tmp_path / "run" / "tasks").iterdir())
    assert found == [f"00-{names[0]}+{names[1]}.ckpt", f"01-{names[2]}.ckpt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "..&lt;b&gt;" in page
    assert "..<b>" not in page


def test_checkpoint_cannot_send_a_command_elsewhere(story: Story, tmp_path: Path) -> None:
    run, outside = story.copy_to(tmp_path), tmp_path / "outside"
    outside.mkdir()
    content = torch.load(run / "last.ckpt", weights_only=True)
    content[CONFIG_KEY] = content[CONFIG_KEY].replace(
        "default_root_dir: ", f"default_root_dir: {outside} #"
    )
    key = RunCheckpoint().state_key
    victim = outside / "victim"
    victim.touch()
    content["callbacks"] = {
        key: {"best_model_path": f"{run}/../outside/victim", "dirpath": str(run)}
    }
    save_sealed(content, run / "last.ckpt")
    flags = [f"--data.root={story.data}", "--data.tasks=[01, b, c]"]
    flags += [f"--ckpt_path={run / 'last.ckpt'}", "--schedule.epochs_per_task=1"]
    run_here(tmp_path, "fit", *flags)
    assert (run / "tasks" / "02-c.ckpt").exists()
    assert [path.name for path in outside.iterdir()] == ["victim"]


LEARNED = {"products": ["x"], "epochs": 1, "epochs_done": 1}
VERBS = ("fit", "test", "validate", "predict", "calibrate", "experts list", "export")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("experts"), "moleflow lacks 'experts'"),
        (lambda state: state["tasks"].append(LEARNED), "learned, but experts has only"),
        (lambda state: state["experts"].append(2), "experts .* do not fit 2 tasks"),
        (lambda state: state["tasks"][0].update(products=["../../out"]), "not valid names"),
        (lambda state: state["tasks"][0].update(epochs="two"), "epochs: expected a whole number"),
        (lambda state: state["tasks"][1]["calibration"].update(scores=[float("nan")]), "finite"),
    ],
)
def test_every_command_refuses_a_checkpoint_that_contradicts_itself(
    verb: str, change: Callable[[dict], object], said: str, story: Story, tmp_path: Path
) -> None:
    content = torch.load(story.moved / "last.ckpt", weights_only=True)
    change(content[STATE_KEY])
    path = tmp_path / "last.ckpt"
    save_sealed(content, path)
    with pytest.raises(SystemExit, match=f"^moleflow: {path} cannot be used: .*{said}") as error:
        cli.main([*verb.split(), f"--ckpt_path={path}"])
    assert len(str(error.value).splitlines()) == 1
    assert {one.name for one in tmp_path.iterdir()} - {LOCK} == {"last.ckpt"}


@pytest.mark.parametrize("key", ["loops", "state_dict"])
def test_checkpoint_without_what_a_fit_goes_on_from_is_refused_by_name(
    key: str, story: Story, tmp_path: Path
) -> None:
    run = story.copy_to(tmp_path)
    content = torch.load(run / "last.ckpt", weights_only=True)
    content[key] = {}
    save_sealed(content, run / "last.ckpt")
    said = failure(tmp_path, "fit", f"--ckpt_path={run / 'last.ckpt'}", "--data.tasks=[01, b, c]")
    assert said.startswith(f"moleflow: {run / 'last.ckpt'} ")
    assert "tasks/01-b.ckpt" in said
