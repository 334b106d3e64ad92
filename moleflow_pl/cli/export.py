"""`moleflow export`: a model as one file for other runtimes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = """\
Write a trained model as one file: image in; anomaly map, score, product and router distance out.
The router and all experts are inside. The file is compared with the model before it gets its place.
"""
EXAMPLES = """\
examples:
  moleflow export --ckpt_path runs/demo/last.ckpt
  moleflow export --ckpt_path runs/demo/last.ckpt --product solar_mono --output mono.onnx
  moleflow export --ckpt_path runs/demo/last.ckpt --format torch
"""
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def parser() -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog="moleflow export",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = {
        "--ckpt_path": {"type": Path, "required": True, "help": "a run's checkpoint"},
        "--output": {"type": Path, "help": "the file (RUN/export/moleflow.onnx)"},
        "--format": {
            "choices": tuple(SUFFIXES),
            "default": "onnx",
            "help": "ONNX, or a program for torch.export.load, .pt2 (%(default)s)",
        },
        "--product": {"help": "export this product's expert alone"},
        "--images": {
            "help": "file, folder or pattern of images to verify with (some of the run's)"
        },
        "--tolerance": {
            "type": float,
            "default": 1e-4,
            "help": "largest relative difference from the model (%(default)s)",
        },
    }
    for name, settings in options.items():
        made.add_argument(name, **settings)  # type: ignore[arg-type]
    return made


def main(args: Sequence[str]) -> None:
    """Write the file, verify it, and say what is in it."""
    given = parser().parse_args(args)
    # torch takes seconds to import, and the help needs none
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.export.pipeline import export_checkpoint

    name = f"{given.product or 'moleflow'}{SUFFIXES[given.format]}"
    output = given.output or RunFolder.of(given.ckpt_path).export / name
    print(
        export_checkpoint(
            given.ckpt_path, output, given.format, given.product, given.images, given.tolerance
        )
    )
