"""What a user does with one run by the command, looked at by many tests."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from moleflow_pl.checkpoints.run_folder import LOCK
from tests.helpers.commands import MODEL, ROOT, moleflow
from tests.helpers.products import draw_product

KILLER = ROOT / "tests" / "helpers" / "killer"
EVENTS = "events.txt"


def watched(plan: Mapping[str, object]) -> dict[str, str]:
    """The environment of a command that `tests/helpers/killer` watches."""
    path = os.pathsep.join([str(KILLER), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "MOLEFLOW_KILL": json.dumps(plan)}


class Story:
    """A fit of `01` and `b` by the command, in a fresh process, and what came out of it.

    A folder in which the fit has been is read again, so that several processes can share it.

    Attributes:
        run: The run folder as the fit left it; one test works on in it.
        moved: A copy of it in another place, which nothing changes.
        output: What the fit printed.
        files: The files it left, without that of the lock, which some systems keep.
        events: The files it opened or renamed, in order.
        summary: Its summary.
        config: Its `config.yaml`.
    """

    def __init__(self, where: Path) -> None:
        self.where, self.data = where, where / "data"
        self.run, self.moved = where / "runs" / "one", where / "moved"
        if not self.moved.exists():
            self._fit()
        self.output = json.loads((where / "output.json").read_text())
        self.events = (where / EVENTS).read_text().splitlines()
        left = [path for path in self.moved.rglob("*") if path.is_file() and path.name != LOCK]
        self.files = {str(path.relative_to(self.moved)) for path in left}
        self.summary = self.summary_of(self.moved)
        self.config = (self.moved / "config.yaml").read_text()

    def _fit(self) -> None:
        for seed, name in enumerate(("01", "b", "c")):
            draw_product(self.data, name, seed, masks=name != "c")
        plan = {"folder": str(self.where), "only": "", "log": str(self.where / EVENTS)}
        fit = moleflow(self.where, *self.fit_into(self.run), env=watched(plan))
        output = json.dumps({"stdout": fit.stdout, "stderr": fit.stderr})
        (self.where / "output.json").write_text(output)
        copied = shutil.copytree(self.run, self.where / "copying")
        copied.rename(self.moved)  # whole or not there

    def copy_to(self, where: Path) -> Path:
        """The run as a folder `run` of one's own, to change."""
        return shutil.copytree(self.moved, where / "run")

    def fit_into(self, run: Path) -> list[str]:
        """The command, for a run folder."""
        fit = ["fit", f"--data.root={self.data}", "--data.tasks=[01, b]", *MODEL]
        return [*fit, f"--trainer.default_root_dir={run}"]

    def summary_of(self, run: Path) -> dict:
        return json.loads((run / "report" / "summary.json").read_text())
