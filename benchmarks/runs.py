"""What the scripts that look at a finished run begin with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import CONFIG_KEY


def checkpoint_argument(description: str | None) -> Path:
    """The checkpoint that is a script's only argument."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path)
    return parser.parse_args().checkpoint


def load_run(checkpoint: Path) -> tuple[MoLEFlow, dict[str, Any]]:
    """A run's model on the CPU, and the arguments of its data module."""
    config = yaml.safe_load(read_checkpoint(checkpoint)[CONFIG_KEY])["data"]
    return MoLEFlow.load_from_checkpoint(checkpoint, map_location="cpu").eval(), config
