"""Kills real runs at seeded random moments, lets them go on, and compares how they end.

    python -m tests.soak.kill --kills 50

Each run is killed up to six times, and may end before. It takes some ten seconds a kill, and ends
with a line of counts, or with the first difference.
"""

import argparse
import random
import tempfile
from pathlib import Path

from tests.helpers.killing import WRITES, draw_moment, kill_and_go_on
from tests.helpers.story import Story

KILLS_OF_ONE_RUN = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many kills have to hit")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    kills = writes = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder))
        while kills < given.kills:
            moments = [draw_moment(chance, story.events) for _ in range(KILLS_OF_ONE_RUN)]
            hit = kill_and_go_on(story, story.where / "killed", moments)
            kills, runs = kills + len(hit), runs + 1
            writes += sum(moment["only"] == WRITES for moment in hit)
            print(
                f"{kills} kills, {writes} of them around a checkpoint's writing; {runs} of {runs} "
                "runs ended equal",
                flush=True,
            )


if __name__ == "__main__":
    main()
