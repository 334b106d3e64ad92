"""The option `--model.backbone_weights` for verbs without LightningCLI."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

OPTION = "--model.backbone_weights"
HELP = "the new place of the backbone's weights, if they have moved"


def add_option(parser: argparse.ArgumentParser, saved: bool = False) -> None:
    """Let a parser take the option as `backbone_weights`.

    Args:
        parser: The verb's parser.
        saved: Whether the verb stores the new place in the checkpoint.
    """
    text = f"{HELP}; the checkpoint keeps the new place" if saved else HELP
    parser.add_argument(OPTION, dest="backbone_weights", metavar="WEIGHTS", help=text)


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the model that the option replaces."""
    given = options.backbone_weights
    return {} if given is None else {"backbone_weights": given}


def save_place(path: Path, weights: str) -> None:
    """Store the new place in a checkpoint, for later commands, if its weights are there.

    Raises:
        ConfigError: there are no weights at that place.
        CheckpointError: the weights are damaged, or not those of the checkpoint.
    """
    # torch takes seconds to import
    import yaml

    from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.checkpoints.run_lock import locked_for
    from moleflow_pl.checkpoints.schema import CONFIG_KEY, run_arguments
    from moleflow_pl.model.restore import HYPER_PARAMETERS, inspector_of

    with locked_for(path, RunFolder.of(path).root):
        checkpoint = read_checkpoint(path)
        inspector_of(checkpoint, path, backbone_weights=weights)  # compares the backbones
        checkpoint[HYPER_PARAMETERS]["backbone_weights"] = weights
        config = run_arguments(checkpoint)
        if "model" in config:
            config["model"]["backbone_weights"] = weights
            checkpoint[CONFIG_KEY] = yaml.safe_dump(config, sort_keys=False)
        write_checkpoint(checkpoint, path)
