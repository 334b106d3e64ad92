"""Checks on a GPU in eight minutes: exactness, waits, speed, memory, exported files.

    python -m benchmarks.gpu --weights vit_small_patch14_dinov2.safetensors

It needs no network and no data. It compares fits of two synthetic products in three precisions,
with random weights and with `--weights`; a resumed fit with an uninterrupted one; and two processes
with NCCL with one, if there are two GPUs. It profiles training steps for waits and for copies of
unpinned memory. Then it measures the throughput of learning and inspecting, with its share of the
card's peak matrix throughput, and the exported file in the providers of ONNX Runtime. A failed part
is recorded, and the others run. Writes a JSON file and prints a table; exits with 1 if a figure
misses its limit or a part fails. `--small` also runs on a CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness.card_inspecting import channels_last, exported, inspecting
from benchmarks.harness.card_learning import (
    learn_as_rank,
    learning,
    pinned,
    precisions,
    ranks,
    resuming,
    waits,
)
from benchmarks.harness.cards import FULL, SMALL, Card, Session
from benchmarks.harness.command_line import add_small_argument, script_parser
from benchmarks.harness.report import Report

MINUTES = 8.0
COMMAND = ["-m", "benchmarks.gpu", "--rank"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--weights", help="of DINOv2's ViT-S/14, beside random ones")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="(%(default)s)")
    add_small_argument(parser)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)  # one of two processes
    return parser.parse_args()


def measure(session: Session, card: Card, weights: str | None) -> None:
    """Run all parts: correctness before speed."""
    session.run("precisions", partial(precisions, session, card, weights))
    session.run("resuming", partial(resuming, session, card))
    session.run("waits", partial(waits, session, card))
    session.run("pinned memory", partial(pinned, session, card))
    session.run("channels last", partial(channels_last, session, card))
    session.run("inspecting", partial(inspecting, session, card))
    session.run("learning", partial(learning, session, card))
    session.run("exported file", partial(exported, session, card, card.folder / "straight"))
    session.run("two processes", partial(ranks, session, card, COMMAND))


def main() -> int:
    """Measure, print, write."""
    given = parse()
    cuda = torch.cuda.is_available()
    if not cuda and not given.small:
        sys.exit("no GPU that torch can use: --small runs tiny sizes on the CPU")
    device = torch.device("cuda" if cuda else "cpu")
    sizes = SMALL if given.small else FULL
    if given.rank is not None:
        learn_as_rank(Card(device, sizes, given.rank))
        return 0
    warnings.filterwarnings("ignore")  # of tiny fits, by the dozen
    report = Report("gpu")
    session = Session(report, 60 * given.minutes)
    with tempfile.TemporaryDirectory() as folder:
        card = Card(device, sizes, Path(folder))
        measure(session, card, given.weights)
    session.write(given.output, {"small": given.small})
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
