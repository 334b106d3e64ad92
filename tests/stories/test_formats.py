"""Checkpoints of every schema are loaded, answer as they did, and learn on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl._internal.schema import SCHEMA
from tests.formats.make import TASKS, answers
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
