"""The arguments of a checkpoint's run: plain values only, since the file may come from anyone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.checkpoints.schema import CONFIG_KEY
from moleflow_pl.errors import CheckpointError

logger = logging.getLogger(__name__)

# what `test`, `validate` and `predict` take over from the run: not the hardware
CARRIED = ("seed_everything", "model", "data", "evaluation")
RESUMED = (*CARRIED, "schedule", "trainer")
# arguments of the trainer that name a class to import or a place to write to
BUILT = ("callbacks", "logger", "profiler", "plugins", "model_registry", "default_root_dir")
OPTIMIZERS = ("torch.optim.", "moleflow_pl.module.")


def stored_config(checkpoint: Path, content: Mapping[str, Any], subcommand: str) -> str:
    """The arguments that a command takes over from a checkpoint, as YAML.

    None of them names a class of anyone else; the run folder is the one the file lies in.

    Args:
        checkpoint: The file.
        content: What was read from it.
        subcommand: `fit` takes over more than the others.

    Raises:
        CheckpointError: its arguments cannot be read.
    """
    text = content.get(CONFIG_KEY) or "{}"
    try:
        config = yaml.safe_load(text)
        if not isinstance(config, dict):
            raise TypeError("no mapping")
        kept = RESUMED if subcommand == "fit" else CARRIED
        taken = {key: config[key] for key in kept if key in config}
        parts = {k: dict(v) for k, v in taken.items() if k != "seed_everything"}
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} holds no arguments of a run: {error}") from error
    taken |= {key: without_classes(key, part) for key, part in parts.items()}
    taken.setdefault("trainer", {})["default_root_dir"] = str(RunFolder.of(checkpoint).root)
    return yaml.safe_dump(taken)


def without_classes(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a group that are plain values, and an optimizer of torch's.

    Example:
        >>> without_classes("trainer", {"precision": "32-true", "logger": None})
        {'precision': '32-true'}
    """
    kept = {key: value for key, value in values.items() if is_plain(part, key, value)}
    left = [f"{part}.{key}" for key in values if key not in kept and values[key] is not None]
    left = [name for name in left if name != "trainer.default_root_dir"]
    if left:
        logger.warning(
            f"ignored arguments of the checkpoint: {', '.join(left)}. They name code or a place to "
            "write to, and a file may come from anyone. Set them again if you trust them"
        )
    return kept


def is_plain(part: str, key: str, value: Any) -> bool:
    """Return whether an argument is a value, and names neither code nor a place to write to."""
    if (part, key) == ("model", "optimizer"):
        path = value.get("class_path") if isinstance(value, dict) else value
        return str(path).startswith(OPTIMIZERS)
    if (part == "trainer" and key in BUILT) or (part, key) == ("data", "feature_store"):
        return False
    items = value if isinstance(value, list) else [value]
    return not any(isinstance(item, dict) for item in items)
