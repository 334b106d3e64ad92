"""Files of every schema are read: checkpoints answer as they did and learn on, experts move."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl._internal import schema
from moleflow_pl._internal.schema import SCHEMA
from moleflow_pl._internal.upgrade import UPGRADES, Kind
from moleflow_pl.checkpoints.expert_edits import extract, learned_schedule
from moleflow_pl.checkpoints.experts import Expert
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.report.comparison import read_summary
from tests.formats.make import EXPERT, EXPERT_FILE, TASKS, answers
from tests.helpers.models import fit

SCHEMAS = sorted(
    path.parent for path in (Path(__file__).parents[1] / "formats").glob("*/last.ckpt")
)


def test_there_is_a_checkpoint_of_each_schema() -> None:
    assert [path.name for path in SCHEMAS] == [f"schema{number}" for number in range(1, SCHEMA + 1)]


@pytest.mark.parametrize("folder", SCHEMAS, ids=lambda path: path.name)
def test_old_checkpoint_answers_as_it_did(folder: Path) -> None:
    expected = json.loads((folder / "answers.json").read_text())
    model = MoLEFlow.load_from_checkpoint(folder / "last.ckpt")
    images = torch.from_numpy(np.load(folder / "probe.npy"))
    found = answers(model, images)
    assert found["task"] == expected["task"]
    assert all(task.calibration for task in model.schedule.tasks)
    assert found["score"] == pytest.approx(expected["score"], rel=1e-4)
    for what in ("distances", "novelty_distance"):
        np.testing.assert_allclose(found[what], expected[what], rtol=1e-3)


@pytest.mark.parametrize("folder", SCHEMAS, ids=lambda path: path.name)
def test_old_checkpoint_learns_on(folder: Path, data_root: Path, tmp_path: Path) -> None:
    path = folder / "last.ckpt"
    tasks, stored = [*TASKS, "c"], torch.load(path, weights_only=True)
    # as the command does: by the arguments of the file, whatever is the default now
    options = stored["hyper_parameters"]
    model = fit(tmp_path, data_root, tasks, epochs=1, ckpt_path=path, model=options)
    assert model.schedule.names == tasks
    assert model.schedule.current is None
    state = model.state_dict()
    assert all(torch.equal(state[key], old) for key, old in stored["state_dict"].items())


def read_files(folder: Path, run: Path) -> tuple[list[str], Expert, list[str]]:
    """Products of the checkpoint, the expert, and products of the summary, of files of a schema."""
    (run / "report").mkdir(parents=True)
    shutil.copy(folder / "summary.json", run / "report")
    checkpoint = read_checkpoint(folder / "last.ckpt")
    names = learned_schedule(checkpoint).names
    return names, Expert.load(folder / EXPERT_FILE), read_summary(run)["tasks"]


@pytest.mark.parametrize("folder", SCHEMAS, ids=lambda path: path.name)
def test_old_expert_file_is_the_expert_of_the_old_checkpoint(folder: Path, tmp_path: Path) -> None:
    names, expert, tested = read_files(folder, tmp_path)
    assert names == tested == TASKS
    own = extract(read_checkpoint(folder / "last.ckpt"), EXPERT)
    assert asdict(expert.task) == {**asdict(own.task), "evaluation": None}
    assert expert.tensors.keys() == own.tensors.keys()
    assert all(torch.equal(own.tensors[key], tensor) for key, tensor in expert.tensors.items())


def test_one_step_upgrades_all_kinds_that_hold_a_task_and_others_need_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next schema renames products, say: a summary needs no step."""

    def loud(task: dict[str, Any]) -> dict[str, Any]:
        return {**task, "products": [name.upper() for name in task["products"]]}

    steps = {
        Kind.CHECKPOINT: lambda state: {**state, "tasks": list(map(loud, state["tasks"]))},
        Kind.EXPERT: lambda content: {**content, "task": loud(content["task"])},
    }
    for kind, step in steps.items():
        monkeypatch.setitem(UPGRADES, (kind, SCHEMA), step)
    monkeypatch.setattr(schema, "SCHEMA", SCHEMA + 1)
    names, expert, tested = read_files(SCHEMAS[-1], tmp_path)
    assert names == ["01", "B"]
    assert expert.task.name == "B"
    assert tested == TASKS
