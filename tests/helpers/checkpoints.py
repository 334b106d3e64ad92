"""Checkpoints that tests make, whole and hostile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from moleflow_pl._internal.schema import stamp
from moleflow_pl.checkpoints.io import with_seal
from moleflow_pl.checkpoints.schema import CONFIG_KEY, CONTAINERS_KEY, STATE_KEY


def bare_checkpoint(config: str = "", **state: object) -> dict[str, object]:
    """The least that a checkpoint holds: a run before its first task."""
    numbers: dict[str, object] = {
        key: [] for key in ("experts", "prototypes", CONTAINERS_KEY, "tasks")
    }
    whole = {**stamp(), "seed": 0, "backbone": {}, "structure": {}, **numbers, **state}
    return {"state_dict": {}, STATE_KEY: whole, CONFIG_KEY: config}


def save_sealed(checkpoint: Mapping[str, Any], file: Any) -> None:
    """Write a checkpoint as another program might: sealed, whatever it says."""
    torch.save(with_seal(checkpoint), file)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))
