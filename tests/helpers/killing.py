"""Runs that are killed at random moments and go on until they are done."""

import json
import random
import shutil
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from tests.helpers.commands import command, moleflow
from tests.helpers.story import Story, watched

COMPARED = ("tasks", "routing", "metrics")
LONGEST_DELAY = 0.5  # seconds; an epoch of these runs takes less
WRITES = ".ckpt."  # and then the end of a temporary name
LONGEST_WRITE = 0.02


def draw_moment(chance: random.Random, events: Sequence[str]) -> dict:
    """A moment of a run: within the writing of a checkpoint, or after any file it opens.

    It lies in the first half, so that a run that has come some way meets it too.
    """
    only, longest = chance.choice([(WRITES, LONGEST_WRITE), ("", LONGEST_DELAY)])
    count = max(sum(only in name for name in events) // 2, 1)
    return {"only": only, "event": chance.randint(1, count), "delay": chance.uniform(0, longest)}


def run_to_moment(args: Sequence[str], where: Path, moment: dict) -> bool:
    """Run the command until a moment; False where it ended well before that came."""
    result = command(where, *args, env=watched({"folder": str(where), **moment}))
    if result.returncode == 0:
        return False
    assert result.returncode == -signal.SIGKILL, result.stdout[-3000:] + result.stderr[-3000:]
    return True


def kill_and_go_on(story: Story, run: Path, moments: Iterable[dict]) -> list[dict]:
    """Kill a run at each moment, let it end, and compare; the moments that hit.

    It may end before a moment comes; the rest is not tried then.
    """
    args = story.fit_into(run)
    hit: list[dict] = []
    for moment in moments:
        if not run_to_moment([*args, *goes_on(run, hit)], story.where, moment):
            break
        hit.append(moment)
    else:
        moleflow(story.where, *args, *goes_on(run, hit))
    assert_same_end(run, story.moved)
    shutil.rmtree(run)
    return hit


def goes_on(run: Path, hit: Sequence[dict]) -> list[str]:
    """What a command that was killed gets in addition."""
    return [f"--ckpt_path={run / 'last.ckpt'}"] if hit else []


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
