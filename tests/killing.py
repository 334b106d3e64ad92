"""Runs that are killed at random moments and go on until they are done."""

import json
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.story import command, watched

COMPARED = ("tasks", "routing", "metrics")
LONGEST_DELAY = 0.5  # seconds; an epoch of these runs takes less
WRITES = ".ckpt.part"
LONGEST_WRITE = 0.02


def draw_moment(chance: random.Random, events: Sequence[str], write: bool) -> dict:
    """A moment of a run: within the writing of a checkpoint, or after any file it opens.

    It lies in the first half, so that a run that has come some way meets it too.
    """
    only, longest = (WRITES, LONGEST_WRITE) if write else ("", LONGEST_DELAY)
    count = max(sum(only in name for name in events) // 2, 1)
    return {"only": only, "event": chance.randint(1, count), "delay": chance.uniform(0, longest)}


def run_to_moment(args: Sequence[str], where: Path, moment: dict) -> bool:
    """Run the command until a moment; False where it ended well before that came."""
    result = command(where, *args, env=watched({"folder": str(where), **moment}))
    if result.returncode == 0:
        return False
    assert result.returncode == -signal.SIGKILL, result.stdout[-3000:] + result.stderr[-3000:]
    return True


def assert_same_end(run: Path, unbroken: Path) -> None:
    """Weights, tasks, routing and metrics of two runs are equal bit for bit."""
    for name in ("last.ckpt", *(f"tasks/{p.name}" for p in (unbroken / "tasks").iterdir())):
        states = [torch.load(r / name, weights_only=True)["state_dict"] for r in (run, unbroken)]
        assert list(states[0]) == list(states[1])
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name
    summaries = [json.loads((r / "report" / "summary.json").read_text()) for r in (run, unbroken)]
    for part in COMPARED:
        assert summaries[0][part] == summaries[1][part], part
    assert not list(run.rglob("*.part"))
