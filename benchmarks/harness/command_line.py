"""Command lines: the parser of every script, arguments of studies, and the studies they ask for.

For all scripts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.harness.plans import BACKBONES, CNN, PRODUCTS, SMALL, VIT, Backbone
from benchmarks.harness.products import IN_PACKAGE, ProductSource, product_sources
from benchmarks.harness.study import Study


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a script."""
    return argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def subject_parsers(
    parser: argparse.ArgumentParser, subjects: Iterable[str]
) -> dict[str, argparse.ArgumentParser]:
    """A parser for the arguments of each subject of a script; the first argument chooses one.

    Example:
        >>> parser = script_parser("Measures.")
        >>> add_small_argument(subject_parsers(parser, ["fit", "bank"])["fit"])
        >>> parser.parse_args(["fit", "--small"])
        Namespace(subject='fit', small=True)
    """
    chosen = parser.add_subparsers(dest="subject", required=True)
    return {name: chosen.add_parser(name, allow_abbrev=False) for name in subjects}


def add_small_argument(parser: argparse.ArgumentParser) -> None:
    """Whether sizes are tiny."""
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes, to see that it runs: figures mean nothing"
    )


def add_product_arguments(parser: argparse.ArgumentParser) -> None:
    """Products, where their images are, and whether they are few."""
    parser.add_argument("--root", help="data set in the layout of MVTec AD")
    parser.add_argument(
        "--products", nargs="+", default=list(PRODUCTS), metavar="PRODUCT",
        help=f"{', '.join(IN_PACKAGE)} from elpv-dataset, others from --root (%(default)s)",
    )  # fmt: skip
    add_small_argument(parser)


def add_study_arguments(parser: argparse.ArgumentParser, only: str | None = None) -> None:
    """Products, backbones, seeds, and where results go.

    Args:
        parser: Takes the arguments.
        only: Key of the backbone, where there is no choice.
    """
    add_product_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED")
    parser.add_argument(
        "--backbones", nargs="+", choices=[only] if only else list(BACKBONES),
        default=[only] if only else [CNN.key, VIT.key],
    )  # fmt: skip
    parser.add_argument("--weights", default="pretrained", help="of DINOv2's ViT-S/14")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/accuracy"),
        help="features, runs and results of one version; a stopped study resumes (%(default)s)",
    )  # fmt: skip


def add_judged_argument(parser: argparse.ArgumentParser) -> None:
    """Which of the products that a model learns have their figures shown."""
    parser.add_argument(
        "--judged", nargs="+", metavar="PRODUCT",
        help="products whose figures are shown, of those that are learned (all)",
    )  # fmt: skip


def sources_of(given: argparse.Namespace) -> list[ProductSource]:
    """The products that the command line names."""
    return product_sources(given.products, given.root, **(SMALL if given.small else {}))


def study_of(
    backbone: Backbone, given: argparse.Namespace, sources: Sequence[ProductSource] | None = None
) -> Study:
    """A study of one backbone, of the products that the command line names or of others."""
    chosen = sources_of(given) if sources is None else sources
    limit = 1 if given.small else None
    return Study(backbone.with_weights(given.weights), chosen, given.folder, limit)


def studies_of(given: argparse.Namespace) -> list[Study]:
    """A study of each backbone that the command line names."""
    return [study_of(BACKBONES[key], given) for key in given.backbones]
