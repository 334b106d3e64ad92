"""Two commands at once over one run folder, and what they come to."""

import csv
import io
import itertools
import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from moleflow_pl._internal.hashing import content_hash
from moleflow_pl.checkpoints.experts import Expert
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.export.runtimes import require_sums
from tests.helpers.commands import MODEL, environment, run_here
from tests.helpers.killing import COMPARED
from tests.helpers.story import Story, watched

DONE, REFUSED, KILLED, WRONG, TRACEBACK, HANG = OUTCOMES = (
    "done", "refused in one sentence", "killed", "wrong result", "traceback", "hang",
)  # fmt: skip
BAD = (WRONG, TRACEBACK, HANG)
RUN, ELSEWHERE = "run", "elsewhere"
PATIENCE = 600.0  # seconds; one command alone takes ten, on a machine that is idle
LATEST_START = 3.0  # seconds of the second after the first
LAST_EVENT = 25  # files that a command opens in the folder until it is killed
LONGEST_DELAY = 0.2
CHECKPOINT = f"--ckpt_path={RUN}/last.ckpt"
# what changes something; `{data}` is the story's
COMMANDS = {
    "fit": ["fit", "--data.root={data}", "--data.tasks=[01, b]", *MODEL,
            f"--trainer.default_root_dir={RUN}"],
    "add": ["fit", CHECKPOINT, "--data.tasks=[01, b, c]"],
    "test": ["test", CHECKPOINT],
    "predict": ["predict", CHECKPOINT, "--data.predict_path={data}/b/test"],
    "predict elsewhere": ["predict", CHECKPOINT, "--data.predict_path={data}/01/test",
                          f"--predictions.folder={ELSEWHERE}"],
    "calibrate": ["calibrate", CHECKPOINT, "--false-alarm-rate=0.2"],
    "rename": ["experts", "rename", "b", "x", CHECKPOINT],
    "remove": ["experts", "remove", "b", CHECKPOINT],
    "update": ["experts", "update", "b", CHECKPOINT],
    "save": ["experts", "export", "b", CHECKPOINT],
    "export": ["export", CHECKPOINT, "--format=torch", "--images={data}/b/test"],
}  # fmt: skip
PAIRS = (
    ("fit", "fit"), ("predict", "predict"), ("predict", "predict elsewhere"), ("calibrate", "fit"),
    ("rename", "predict"), ("export", "update"), ("calibrate", "add"), ("test", "calibrate"),
    ("remove", "save"), ("update", "predict elsewhere"), ("add", "rename"), ("fit", "predict"),
    ("calibrate", "rename"), ("update", "update"), ("export", "fit"), ("test", "predict"),
)  # fmt: skip
FITS = ("fit", "add", "update")


@dataclass
class Attempt:
    """One of the commands of a round.

    Attributes:
        name: Its name in `COMMANDS`.
        process: The process it runs in.
        outcome: One of `OUTCOMES`.
        said: What it wrote.
    """

    name: str
    process: subprocess.Popen[str]
    outcome: str = ""
    said: str = ""


@dataclass
class Round:
    """What a round came to.

    Attributes:
        outcomes: Of the two commands.
        fault: What is wrong; empty where nothing is.
    """

    outcomes: list[str] = field(default_factory=list)
    fault: str = ""


class AtOnce:
    """Rounds of two commands at once on copies of one run.

    Args:
        story: The run.
        where: A folder for the copies.
    """

    def __init__(self, story: Story, where: Path) -> None:
        self.story, self.where = story, where
        self.expected = cache(self._expected)

    def play(self, pair: Sequence[str], chance: random.Random, kills: bool) -> Round:
        """Run two commands at once, one perhaps killed; let both end, and compare."""
        folder = self.begin("round")
        victim = chance.choice([0, 1]) if kills else None
        attempts = []
        for i, name in enumerate(chance.sample(pair, 2)):
            if i:
                time.sleep(chance.choice([0.0, chance.uniform(0, LATEST_START)]))
            attempts.append(self.start(folder, name, chance if i == victim else None))
        for attempt in attempts:
            self.await_end(attempt)
        played = Round([attempt.outcome for attempt in attempts])
        faults = [f"{a.name}: {a.outcome}: {a.said}" for a in attempts if a.outcome in BAD]
        played.fault = "\n".join(faults) or self.settle(folder, attempts)
        if played.fault and not faults:
            played.outcomes.append(WRONG)
        shutil.rmtree(folder)
        return played

    def begin(self, name: str) -> Path:
        """A folder with a copy of the run."""
        folder = self.where / name
        shutil.copytree(self.story.moved, folder / RUN)
        return folder

    def words(self, name: str) -> list[str]:
        """The words of a command."""
        return [word.replace("{data}", str(self.story.data)) for word in COMMANDS[name]]

    def start(self, folder: Path, name: str, chance: random.Random | None) -> Attempt:
        """Start a command, which kills itself at a random moment where `chance` is given."""
        plan: dict[str, Any] = {"folder": f"{RUN}/", "only": ""}  # the words name it like that
        if chance is not None:
            plan["event"] = chance.randint(1, LAST_EVENT)
            plan["delay"] = chance.choice([0.0, chance.uniform(0, LONGEST_DELAY)])
        process = subprocess.Popen(
            ["moleflow", *self.words(name)],
            cwd=folder,
            env=environment(watched(plan)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Attempt(name, process)

    def await_end(self, attempt: Attempt) -> None:
        """Wait for a command and sort how it ended."""
        try:
            attempt.said, _ = attempt.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            attempt.process.kill()
            attempt.said, _ = attempt.process.communicate()
            attempt.outcome = HANG
            return
        code = attempt.process.returncode
        if "Traceback (most recent call last)" in attempt.said:
            attempt.outcome = TRACEBACK
        elif code < 0:
            attempt.outcome = KILLED
        else:
            attempt.outcome = REFUSED if code else DONE

    def settle(self, folder: Path, attempts: Sequence[Attempt]) -> str:
        """Run again what is not done, and say what is wrong with the end, if anything is."""
        ends = [(attempt.name, attempt.outcome, attempt.said[-400:]) for attempt in attempts]
        try:
            orders = list(sequences(*self.go_on(folder, attempts)))
            killed = {attempt.name for attempt in attempts if attempt.outcome == KILLED}
            scope = {"strict": not killed, "answers": not killed & {*FITS}}
            found = narrowed(look(folder), **scope)
            wanted = [narrowed(self.expected(order), **scope) for order in orders]
        except Exception as error:  # whatever fails or cannot be read is a fault
            return f"{type(error).__name__}: {error}; {ends}"
        if found in wanted:
            return ""
        apart = [sorted(k for k in {*found, *w} if found.get(k) != w.get(k)) for w in wanted]
        return f"not the end of any of {orders}: {apart} differ; {ends}"

    def go_on(self, folder: Path, attempts: Sequence[Attempt]) -> tuple[list[str], list[str]]:
        """Run again what is not done; the commands that must show in the end, and that may."""
        must, may = [], []
        for attempt in attempts:
            succeeds = attempt.outcome == DONE or self.succeeds(folder, attempt)
            if attempt.outcome == KILLED:  # it may have done all before, or have nothing to do
                may.append(attempt.name)
            elif succeeds:
                must.append(attempt.name)
        return must, may

    def succeeds(self, folder: Path, attempt: Attempt) -> bool:
        """Run a command again, alone; a fit that was killed goes on."""
        words = self.words(attempt.name)
        if attempt.outcome == KILLED and attempt.name == "fit":
            words.append(CHECKPOINT)
        return runs(folder, words)

    def _expected(self, order: tuple[str, ...]) -> dict[str, Any]:
        """What the folder says after commands one by one."""
        folder = self.begin("alone")
        for name in order:
            runs(folder, self.words(name))
        found = look(folder)
        shutil.rmtree(folder)
        return found


def runs(folder: Path, words: Sequence[str]) -> bool:
    """Run a command in this process; whether it succeeds or is refused in words."""
    # what it says would drown the counts
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            run_here(folder, *words)
        except SystemExit as error:
            return not error.code
    return True


def sequences(must: Sequence[str], may: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All orders of commands, of which some may be left out."""
    for count in range(len(may) + 1):
        for chosen in itertools.combinations(may, count):
            yield from sorted(set(itertools.permutations([*must, *chosen])))


def look(folder: Path) -> dict[str, Any]:
    """What all files of a run say, by their names, without times and places.

    Raises:
        Exception: one of them is half written, or cannot be read.
    """
    assert not [*folder.rglob("*.part")], [*folder.rglob("*.part")]
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".ckpt":
            found[name] = of_checkpoint(read_checkpoint(path))
        elif path.suffix == ".safetensors":
            found[name] = content_hash(Expert.load(path).tensors)
        elif path.suffix == ".pt2":
            require_sums(path)
            found[name] = "as it was written"
        elif path.name == "predictions.csv":
            with path.open(encoding="utf-8") as file:
                found[name] = sorted(map(tuple, csv.reader(file)))
        elif path.name == "summary.json":
            summary = json.loads(path.read_text(encoding="utf-8"))
            found[name] = [summary[part] for part in COMPARED]
    return found


def narrowed(found: dict[str, Any], strict: bool, answers: bool) -> dict[str, Any]:
    """What can be compared.

    Args:
        found: What all files say.
        strict: With what was moved aside, which a command that was killed may add to.
        answers: With more than the weights of the run, for what another command did to a run half
            learned stays in it.
    """
    if not strict:
        found = {name: value for name, value in found.items() if "~" not in name}
    if not answers:
        found = {k: v["weights"] for k, v in found.items() if k == f"{RUN}/last.ckpt"}
    return found


def of_checkpoint(content: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says, without times."""
    tasks = content[STATE_KEY]["tasks"]
    times = ("fit_seconds", "learned_at")
    timeless = [{k: v for k, v in task.items() if k not in times} for task in tasks]
    return {"weights": content_hash(content["state_dict"]), "tasks": content_hash(timeless)}
