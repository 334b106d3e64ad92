"""Runs two commands at once over one run folder, at random, by a seed, and counts how they end.

    python -m tests.soak.two_at_once --minutes 10

The second starts up to three seconds after the first; in every second round one kills itself as
`kill -9` does, at a random moment. What was refused or killed runs again, alone, and the folder has
to say what it says after the same commands one by one. The command fails where a result is wrong,
or a command ended in a traceback or a hang, and names the round.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.helpers.at_once import BAD, OUTCOMES, PAIRS, AtOnce
from tests.helpers.story import Story

KILLS = 2  # in one round of so many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long; begun rounds end")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first round")
    given = parser.parse_args()
    counts, rounds = Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        at_once = AtOnce(Story(Path(folder) / "story"), Path(folder))
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            chance = random.Random(given.seed + rounds)
            pair = PAIRS[(given.seed + rounds) % len(PAIRS)]
            played = at_once.play(pair, chance, kills=rounds % KILLS == KILLS - 1)
            counts.update(played.outcomes)
            rounds += 1
            print(f"seed {given.seed + rounds - 1}, {pair}: {played.outcomes}", flush=True)
            if played.fault:
                print(played.fault, flush=True)
    print(f"{rounds} rounds: " + ", ".join(f"{counts[one]} {one}" for one in OUTCOMES))
    sys.exit(any(counts[bad] for bad in BAD))


if __name__ == "__main__":
    main()
