"""Checkpoints of every version so far are loaded, answer as they did, and learn on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.io import UNSAID
from tests.formats.make import TASKS, answers
from tests.helpers.models import fit

SQUARED = {"0.1.0"}  # whose score was half the square of a latent's distance
VERSIONS = sorted(
    path.parent for path in (Path(__file__).parents[1] / "formats").glob("*/last.ckpt")
)


def test_there_is_a_checkpoint_of_an_earlier_day() -> None:
    assert VERSIONS


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_old_checkpoint_answers_as_it_did(version: Path) -> None:
    expected = json.loads((version / "answers.json").read_text())
    model = MoLEFlow.load_from_checkpoint(version / "last.ckpt")
    images = torch.from_numpy(np.load(version / "probe.npy"))
    found = answers(model, images)
    assert found["task"] == expected["task"]
    scores = expected["score"]
    if version.name in SQUARED:
        scores = [(2 * score) ** 0.5 for score in scores]
        # what they were calibrated with is another number now
        assert [task.calibration for task in model.schedule.tasks] == [None, None]
    else:
        assert all(task.calibration for task in model.schedule.tasks)
    assert found["score"] == pytest.approx(scores, rel=1e-4)
    for what in {"distances", "novelty"} & set(expected):
        np.testing.assert_allclose(found[what], expected[what], rtol=1e-3)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_old_checkpoint_learns_on(version: Path, data_root: Path, tmp_path: Path) -> None:
    path = version / "last.ckpt"
    tasks, stored = [*TASKS, "c"], torch.load(path, weights_only=True)
    # as the command does: by the arguments of the file, whatever is the default now
    options = UNSAID | stored["hyper_parameters"]
    model = fit(tmp_path, data_root, tasks, epochs=1, ckpt_path=path, model=options)
    assert model.schedule.names == tasks
    assert model.schedule.current is None
    state = model.state_dict()
    assert all(torch.equal(state[key], old) for key, old in stored["state_dict"].items())
