"""What a user does with one run, in fresh processes; told once and looked at by many tests."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.helpers.products import draw_product

ROOT = Path(__file__).parents[2]
KILLER = ROOT / "tests" / "helpers" / "killer"
MODEL = [
    "--model.backbone=test_vit", "--model.layers=[0,1]", "--model.image_size=48",
    "--model.backbone_weights=random", "--model.coupling_layers=2", "--model.lora_rank=2",
    "--data.batch_size=4", "--data.num_workers=0", "--schedule.epochs_per_task=2",
    "--evaluation.map_size=48", "--evaluation.blur_sigma=1", "--trainer.accelerator=cpu",
]  # fmt: skip


def command(
    where: Path, *args: object, script: bool = False, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, however it ends."""
    program = [sys.executable, str(ROOT / "cli.py")] if script else ["moleflow"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*program, *map(str, args)],
        cwd=where,
        env={**os.environ, "PATH": path, "COLUMNS": "120", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def moleflow(
    where: Path, *args: object, fails: bool = False, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder; its output on failure."""
    result = command(where, *args, **options)  # type: ignore[arg-type]
    assert bool(result.returncode) == fails, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def watched(plan: Mapping[str, object]) -> dict[str, str]:
    """The environment of a command that `tests/killer` watches."""
    path = os.pathsep.join([str(KILLER), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "MOLEFLOW_KILL": json.dumps(plan)}


class Story:
    """What a user does with one run, and what came out of it."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.data = where / "data"
        for seed, name in enumerate(("01", "b", "c")):
            draw_product(self.data, name, seed, masks=name != "c")
        self.run = where / "runs" / "one"
        plan = {"folder": str(where), "only": "", "log": str(where / "events.txt")}
        self.fit = moleflow(where, *self.fit_into(self.run), env=watched(plan))
        self.events = Path(plan["log"]).read_text().splitlines()
        self.summary = self.summary_now()
        self.config = (self.run / "config.yaml").read_text()
        self.moved = where / "moved"
        shutil.copytree(self.run, self.moved)

    def copy_to(self, where: Path) -> Path:
        """The run as a folder `run` of one's own, to change."""
        return shutil.copytree(self.moved, where / "run")

    def fit_into(self, run: Path) -> list[str]:
        """The command, for a run folder."""
        fit = ["fit", f"--data.root={self.data}", "--data.tasks=[01, b]", *MODEL]
        return [*fit, f"--trainer.default_root_dir={run}"]

    def summary_now(self, run: Path | None = None) -> dict:
        return json.loads(((run or self.run) / "report" / "summary.json").read_text())
