"""Plain arguments that a command takes from a checkpoint, whose file may be hostile."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.checkpoints.schema import BY_PRODUCT, STATE_KEY, run_arguments
from moleflow_pl.cli.config_values import TRUSTED, home_of
from moleflow_pl.errors import CheckpointError
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)

# what `test`, `validate` and `predict` take over from the run: the model, the images and how they
# are evaluated, but not what concerns the machine. None stands for all values of a group
IMAGES = (
    "root", "tasks", "layout", "image_size", "val_fraction", "lots", "variants", "check_files",
    "on_error",
)  # fmt: skip
CARRIED: dict[str, tuple[str, ...] | None] = {"model": None, "data": IMAGES, "evaluation": None}
MODEST = {"batch_size": 16, "num_workers": 2}  # taken over up to these defaults
# a resumed fit also needs everything that its result depends on
TRAINING = (
    "accelerator", "precision", "gradient_clip_val", "gradient_clip_algorithm", "deterministic",
    "benchmark", "accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval",
    "log_every_n_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches",
    "overfit_batches", "sync_batchnorm",
)  # fmt: skip
RESUMED = {
    **CARRIED,
    "data": (*IMAGES, "roi", "batch_size", "cache_features", "feature_memory_gb"),
    "schedule": None,
    "trainer": TRAINING,
}
# arguments of the machine with usual values; with others, results may differ
MACHINE = {"devices": (1, "auto"), "num_nodes": (1,), "strategy": ("auto",)}
# arguments that name a class to import or a place to write to
BUILT = {
    "data": ("feature_store",),
    "trainer": ("callbacks", "logger", "profiler", "plugins", "model_registry", "strategy"),
}
OPTIMIZERS = ("torch.optim.", "moleflow_pl.module.")
SEED = "seed_everything"


def stored_config(checkpoint: Path, content: Mapping[str, Any], subcommand: str) -> str:
    """The arguments that a command takes over from a checkpoint, as YAML.

    Only listed arguments are taken, and none that names another package's class; the run folder is
    that of the file.

    Args:
        checkpoint: The file.
        content: What was read from it.
        subcommand: `fit` takes over more than the others.

    Raises:
        CheckpointError: its arguments cannot be read.
    """
    try:
        stored = run_arguments(content)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint} cannot be used: {error}") from error
    groups = RESUMED if subcommand == "fit" else CARRIED
    parts = {key: listed(key, names, stored[key]) for key, names in groups.items() if key in stored}
    if "data" in parts:
        parts["data"] = of_known_products(parts["data"], content)
    seed = {SEED: stored[SEED]} if isinstance(stored.get(SEED), (int, bool)) else {}
    place = {"default_root_dir": str(RunFolder.of(checkpoint).root)}
    return yaml.safe_dump({**seed, **parts, "trainer": {**parts.get("trainer", {}), **place}})


def of_known_products(data: dict[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the data without masks and variants of products that the model does not know.

    A product that is being learned again counts as known, although its expert is set aside.
    """
    tasks = content.get(STATE_KEY, {}).get("tasks")
    if not tasks:
        return data
    products = [name for task in TaskSchedule.from_state(tasks).tasks for name in task.products]
    known = {re.sub(r"~\d+$", "", name) for name in products} | {*products}
    by_product = {k: v for k in ("roi", "variants") if isinstance(v := data.get(k), dict)}
    kept = {k: {name: of[name] for name in of if name in known} for k, of in by_product.items()}
    return {**data, **kept}


def listed(part: str, names: tuple[str, ...] | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the listed plain arguments of a group, and warn of others that matter.

    Example:
        >>> listed("trainer", ("precision",), {"precision": "32-true", "devices": 1})
        {'precision': '32-true'}
    """
    wanted = {key: value for key, value in values.items() if names is None or key in names}
    if part == "data":
        wanted |= {key: values[key] for key in MODEST if is_modest(key, values.get(key))}
    kept = {key: value for key, value in wanted.items() if is_plain(part, key, value)}
    code = [f"{part}.{key}" for key in values if is_missed(part, key, values[key], wanted)]
    if code:
        logger.warning(
            f"ignored arguments of the checkpoint: {', '.join(code)}. They name code, a place to "
            "write to or another machine, and a file may come from anyone. Set them again if you "
            "need them"
        )
    return kept


def is_modest(key: str, value: Any) -> bool:
    """Return whether an argument needs no more resources than its default."""
    return type(value) is int and 0 <= value <= MODEST[key]


def is_missed(part: str, key: str, value: Any, wanted: Mapping[str, Any]) -> bool:
    """Return whether the run's result may depend on an argument that is left out."""
    if value is None:
        return False
    if part == "trainer" and key in MACHINE:
        return value not in MACHINE[key]
    return key in BUILT.get(part, ()) or (key in wanted and not is_plain(part, key, value))


def is_plain(part: str, key: str, value: Any) -> bool:
    """Return whether an argument is a value, and names neither code nor a place to write to."""
    if (part, key) == ("model", "optimizer"):
        path = str(value.get("class_path") if isinstance(value, dict) else value)
        return path.startswith(OPTIMIZERS) and home_of(path) in TRUSTED
    if part == "data" and key in BY_PRODUCT and isinstance(value, dict):
        given = [one for of in value.values() for one in (of if isinstance(of, list) else [of])]
        return "class_path" not in value and all(isinstance(one, str) for one in given)
    items = value if isinstance(value, list) else [value]
    return not any(isinstance(item, dict) for item in items)
