"""`moleflow export`: write a model as one file for other runtimes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moleflow_pl.cli import moved_weights
from moleflow_pl.cli.mistakes import VerbParser
from moleflow_pl.cli.run_argument import CHECKPOINT, SETTINGS

DESCRIPTION = """\
Write a trained model as one file: image in; anomaly map, score, product and router distance out.
It holds the router and all experts. The command checks the file against the model before saving it.
"""
EXAMPLES = """\
examples:
  moleflow export runs/demo
  moleflow export runs/demo --product solar_mono --output mono.onnx
  moleflow export runs/demo --format torch
"""
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
OPTIONS: dict[str, dict[str, Any]] = {
    CHECKPOINT: SETTINGS,
    "--output": {"type": Path, "metavar": "FILE", "help": "the file (RUN/export/moleflow.onnx)"},
    "--format": {
        "choices": tuple(SUFFIXES),
        "default": "onnx",
        "help": "ONNX, or a program for torch.export.load, .pt2 (%(default)s)",
    },
    "--product": {"metavar": "NAME", "help": "export only this product's expert"},
    "--images": {
        "metavar": "IN",
        "help": "file, folder or pattern of images to check with (images of the run)",
    },
    "--tolerance": {
        "type": float,
        "default": 1e-4,
        "metavar": "SHARE",
        "help": "largest relative difference from the model (%(default)s)",
    },
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the verb's options."""
    parser = VerbParser(
        prog="moleflow export",
        usage="moleflow export RUN [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, settings in OPTIONS.items():
        parser.add_argument(name, **settings)
    moved_weights.add_option(parser)
    return parser


def main(args: Sequence[str]) -> None:
    """Write the file, check it against the model, and print what it holds."""
    options = make_parser().parse_args(args)
    # after parsing: torch takes seconds to import
    from moleflow_pl._internal.files import replaceable
    from moleflow_pl._internal.printable import printable_lines
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.checkpoints.run_lock import locked_for
    from moleflow_pl.export.pipeline import export_checkpoint

    name = f"{options.product or 'moleflow'}{SUFFIXES[options.format]}"
    path = options.output or RunFolder.of(options.ckpt_path).export / name
    replaceable(path)
    verify = (options.images, options.tolerance)
    with locked_for(path, RunFolder.of(options.ckpt_path).root):
        done = export_checkpoint(
            options.ckpt_path, path, options.format, options.product, *verify,
            **moved_weights.overrides(options),
        )  # fmt: skip
    print(printable_lines(done))
