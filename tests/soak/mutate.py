"""Damages files of all kinds at random, by a seed, and counts what reading them comes to.

    python -m tests.soak.mutate --mutations 1000

Each mutation is read in a process beside this one, which is ended where it hangs. The command fails
where a file was accepted with another answer, or ended in a traceback, a hang or a crash, and names
the kind and seed of each.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from moleflow_pl._internal.hashing import content_hash
from tests.helpers.mutations import CRASH, HANG, KINDS, OUTCOMES, REFUSED, SAME, mutate, outcome

PATIENCE = 60.0  # seconds; reading a file that is whole takes less than one


def work(name: str, where: Path, pipe: Connection) -> None:
    """Make a good file of a kind, then mutate and read it for each seed that is asked for."""
    kind = KINDS[name](where / "good")
    expected = content_hash(kind.use(kind.path))
    pipe.send(("ready", ""))
    while True:
        pipe.send(outcome(kind, mutate(kind, pipe.recv(), where / "mutated"), expected))


class Worker:
    """A process that reads mutations of one kind, and is replaced where it hangs or dies."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start()

    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        # not forked: the threads of torch would be missing
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        arguments = (self.name, Path(self.folder.name), other)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.folder.cleanup()

    def read(self, seed: int) -> tuple[str, str]:
        """The outcome of the mutation that follows from a seed, and what was said."""
        self.pipe.send(seed)
        try:
            if self.pipe.poll(PATIENCE):
                return self.pipe.recv()
            result = HANG
        except EOFError:
            result = CRASH
        self.stop()
        self.start()
        return result, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1000, help="how many, over all kinds")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    total: Counter[str] = Counter()
    for i, name in enumerate(KINDS):
        worker, counts = Worker(name), Counter[str]()
        share = len(range(i, given.mutations, len(KINDS)))
        for seed in range(given.seed, given.seed + share):
            result, said = worker.read(seed)
            counts[result] += 1
            if result not in (REFUSED, SAME):
                print(f"{name}, seed {seed}: {result} {said[:300]}", flush=True)
        worker.stop()
        total += counts
        print(f"{name}: {described(counts)}", flush=True)
    print(f"all: {described(total)}")
    sys.exit(any(total[bad] for bad in OUTCOMES if bad not in (REFUSED, SAME)))


def described(counts: Counter[str]) -> str:
    return f"{counts.total()} mutations: " + ", ".join(f"{counts[one]} {one}" for one in OUTCOMES)


if __name__ == "__main__":
    main()
