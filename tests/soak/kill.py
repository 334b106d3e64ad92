"""Kills real runs at seeded random moments, lets them go on, and compares how they end.

    python -m tests.soak.kill --kills 50

Each run is killed until it happens to end; then the next one begins. It takes about ten seconds a
kill, and ends with a line of counts, or with the first difference.
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path

from tests.killing import assert_same_end, draw_moment, run_to_moment
from tests.story import Story

MOST_KILLS = 6  # of one run; then it may end


def main() -> None:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many kills have to hit")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder))
        kills = writes = ended = 0
        while kills < given.kills:
            hits, within_writes = soak(story, story.where / "killed", chance)
            kills, writes, ended = kills + hits, writes + within_writes, ended + 1
            print(f"{kills} kills ({writes} around a checkpoint's writing), {ended} runs equal")


def soak(story: Story, run: Path, chance: random.Random) -> tuple[int, int]:
    """Kill one run until it ends, and compare; how many kills hit, and how many of them a write."""
    args = story.fit_into(run)
    goes_on = [*args, f"--ckpt_path={run / 'last.ckpt'}"]
    hits = writes = 0
    while True:
        write = chance.random() < 0.5
        moment = draw_moment(chance, story.events, write)
        if hits == MOST_KILLS:
            moment["event"] = 0  # never
        if not run_to_moment(goes_on if hits else args, story.where, moment):
            break
        hits, writes = hits + 1, writes + write
    assert_same_end(run, story.moved)
    shutil.rmtree(run)
    return hits, writes


if __name__ == "__main__":
    main()
