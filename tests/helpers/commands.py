"""The command, in a fresh process or in this one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from moleflow_pl.cli import main as cli

ROOT = Path(__file__).parents[2]
MODEL = [
    "--model.backbone=test_vit", "--model.layers=[0,1]", "--model.image_size=48",
    "--model.backbone_weights=random", "--model.coupling_layers=2", "--model.lora_rank=2",
    "--data.batch_size=4", "--data.num_workers=0", "--schedule.epochs_per_task=2",
    "--evaluation.map_size=48", "--evaluation.blur_sigma=1", "--trainer.accelerator=cpu",
]  # fmt: skip
WITHOUT_TRAINER = ("report", "calibrate", "experts", "export", "serve")


def command(
    where: Path, *args: object, script: bool = False, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder and a fresh process, however it ends."""
    program = [sys.executable, str(ROOT / "cli.py")] if script else ["moleflow"]
    return subprocess.run(
        [*program, *map(str, args)],
        cwd=where,
        env=environment(env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command in a fresh process."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "120", **changes}


def moleflow(
    where: Path, *args: object, fails: bool = False, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder and a fresh process; its output on failure."""
    result = command(where, *args, **options)  # type: ignore[arg-type]
    assert bool(result.returncode) == fails, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def run_here(where: Path, *args: object) -> None:
    """Run the command in a folder and in this process: the imports of a fresh one take seconds."""
    quiet = [] if args[0] in WITHOUT_TRAINER else ["--trainer.enable_progress_bar=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setenv("COLUMNS", os.environ.get("COLUMNS", "120"))
        patch.setattr("sys.argv", ["moleflow"])
        cli.main([*map(str, args), *quiet])


def failure(where: Path, *args: object) -> str:
    """What the command says as it fails, in this process; Python shows it and exits by 1."""
    with pytest.raises(SystemExit) as error:
        run_here(where, *args)
    assert isinstance(error.value.code, str)
    return error.value.code
