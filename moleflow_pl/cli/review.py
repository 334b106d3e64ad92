"""`moleflow review`: apply, preview or export reviews of decisions."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moleflow_pl.cli import moved_weights
from moleflow_pl.cli.changed_model import report_changed
from moleflow_pl.cli.mistakes import VerbParser
from moleflow_pl.cli.run_argument import CHECKPOINT, SETTINGS
from moleflow_pl.cli.serve import require_parts
from moleflow_pl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from moleflow_pl.inference.reviews import PastDecision, Preview, Review

logger = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  moleflow review preview runs/demo --reviews reviews.csv
  moleflow review apply runs/demo --reviews reviews.csv
  moleflow review export --reviews reviews.csv --output reviewed
  moleflow review export --service runs/demo --output reviewed

A file of reviews has the columns path, product and label, as predictions.csv has them, and verdict:
right, false_alarm, missed_defect or other_product."""
REVIEWS: dict[str, Any] = {"type": Path, "required": True, "metavar": "FILE", "help": "a CSV file"}
PRODUCT = {"metavar": "NAME", "help": "only this product; default: all reviewed ones"}
PAST: dict[str, Any] = {
    "type": Path,
    "metavar": "FILE",
    "help": "past decisions to compare with; default: the run's predictions/predictions.csv",
}
OUTPUT: dict[str, Any] = {
    "type": Path,
    "required": True,
    "metavar": "FOLDER",
    "help": "output folder",
}
SERVICE: dict[str, Any] = {
    "type": Path,
    "metavar": "RUN",
    "help": "reviews of the service of this run, instead of a CSV file",
}
DATABASE = {"metavar": "URL", "help": "the service's --database, if it has one"}
MODEL = {CHECKPOINT: SETTINGS, "--reviews": REVIEWS, "--product": PRODUCT}
# action: (what it does, its options with their settings)
ACTIONS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "apply": (
        "add reviewed good images to a product's threshold, and false alarms to its memory bank, "
        "as a new version of its expert; moleflow experts rollback restores the old one",
        MODEL,
    ),
    "preview": (
        "show what apply would change: thresholds, past decisions, recall of confirmed defects",
        {**MODEL, "--past": PAST},
    ),
    "export": (
        "copy reviewed images into MVTec's layout",
        {
            "--reviews": {**REVIEWS, "required": False},
            "--service": SERVICE,
            "--database": DATABASE,
            "--output": OUTPUT,
        },
    ),
}
SHOWN = 20  # changed decisions to list


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the verb's arguments."""
    parser = VerbParser(
        prog="moleflow review",
        description="Improve the experts of a model by reviews of their decisions.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (text, options) in ACTIONS.items():
        run = "RUN " if CHECKPOINT in options else ""
        usage = f"moleflow review {name} {run}--reviews FILE [options]"
        action = actions.add_parser(name, help=text, description=text, usage=usage)
        for option, settings in options.items():
            action.add_argument(option, **settings)
        if CHECKPOINT in options:
            moved_weights.add_option(action, saved=name == "apply")
    return parser


def main(args: Sequence[str]) -> None:
    """Run one action."""
    options = make_parser().parse_args(args)
    # after parsing: torch takes seconds to import
    from moleflow_pl.inference.reviews import read_reviews

    if options.action == "export":
        export(options)
        return
    reviews = read_reviews(options.reviews)
    if options.action == "preview":
        show(preview_of(options, reviews))
    else:
        apply(options, reviews)


def export(options: argparse.Namespace) -> None:
    """Copy reviewed images into a folder, and say how many.

    Raises:
        ConfigError: there is no source of reviews, or more than one.
        OutputError: the output is not a folder.
    """
    from moleflow_pl._internal.files import require_folder
    from moleflow_pl.inference.reviews import export_reviews, read_reviews

    if (options.reviews is None) == (options.service is None):
        raise ConfigError("give the reviews: --reviews FILE, or --service RUN")
    require_folder(options.output)
    if options.service is None:
        counts = export_reviews(read_reviews(options.reviews), options.output)
    else:
        counts = export_of_service(options)
    for place, count in counts.items():
        logger.info(f"{options.output / place}: {count} images")


def export_of_service(options: argparse.Namespace) -> dict[str, int]:
    """Copy the reviewed images of a service; how many went to each folder.

    Raises:
        DataError: the service has no record of reviews.
    """
    require_parts()
    from moleflow_pl.service.reviews import export_reviews
    from moleflow_pl.service.settings import Settings

    settings = Settings(str(options.service.expanduser()), database=options.database)
    if options.database is None and not Path(settings.database_url).is_file():
        raise DataError(
            f"no record of a service at {settings.database_url}: give its run, or --database"
        )
    database = settings.open_database()
    return export_reviews(database, settings.open_store(database), options.output)


def apply(options: argparse.Namespace, reviews: Sequence[Review]) -> None:
    """Replace each reviewed product's expert by a new version, and log it."""
    from moleflow_pl.checkpoints.io import read_checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.inference import reviews as library

    path = options.ckpt_path
    if options.backbone_weights is not None:
        moved_weights.save_place(path, options.backbone_weights)
    for task in library.apply(path, reviews, options.product):
        assert task.calibration is not None  # it was recalibrated
        threshold = task.calibration.score_threshold
        words = ["moleflow", "experts", "rollback", str(RunFolder.of(path).root), task.name]
        logger.info(
            f"{task.name}: threshold {threshold.value:.4g}, by {threshold.images} calibration "
            f"images; to restore the old one: {shlex.join(words)}"
        )
    report_changed(path, read_checkpoint(path))


def preview_of(options: argparse.Namespace, reviews: Sequence[Review]) -> Preview:
    """Return what `apply` would change."""
    from moleflow_pl.checkpoints.io import read_checkpoint
    from moleflow_pl.checkpoints.schema import STATE_KEY
    from moleflow_pl.inference.predictor import auto_device
    from moleflow_pl.inference.reviews import preview, reviewed_products
    from moleflow_pl.model.restore import inspector_of

    checkpoint = read_checkpoint(options.ckpt_path)
    overrides = moved_weights.overrides(options)
    inspector = inspector_of(checkpoint, options.ckpt_path, auto_device(), **overrides)
    products = reviewed_products(reviews, options.product)
    seed = checkpoint[STATE_KEY]["seed"]
    return preview(inspector, reviews, past_decisions(options), seed, products)


def past_decisions(options: argparse.Namespace) -> list[PastDecision]:
    """Return the decisions of a table of predictions; none if the run has no such table.

    Raises:
        DataError: the table cannot be read, or is damaged.
    """
    import csv

    from moleflow_pl._internal.files import regular
    from moleflow_pl._internal.result_names import TABLE_FILE
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.inference.reviews import PastDecision

    table = options.past or RunFolder.of(options.ckpt_path).predictions / TABLE_FILE
    if options.past is None and not table.exists():
        return []
    try:
        with regular(table).open(newline="", encoding="utf-8") as file:
            names, *rows = filter(None, csv.reader(file))
        path, product, label = map(names.index, ("path", "product", "label"))
        if any(len(row) != len(names) for row in rows):
            raise ValueError("a row is cut off")
        return [PastDecision(Path(row[path]), row[product], row[label]) for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        reason = (
            error.strerror
            if isinstance(error, OSError)
            else "it is not a whole table of predictions"
        )
        raise DataError(
            f"cannot read the past decisions {table}: {reason}; give a predictions.csv with --past"
        ) from error


def show(changes: Preview) -> None:
    """Print a preview."""
    from moleflow_pl._internal.console import NamesTable, print_table

    table = NamesTable(title="what applying the reviews would change")
    for column in ("product", "good images added", "threshold before", "threshold after"):
        table.add_column(column, justify="left" if column == "product" else "right")
    for product, (before, after) in changes.thresholds.items():
        table.add_row(product, str(changes.images[product]), f"{before:.4g}", f"{after:.4g}")
    print_table(table)
    gone = f"; the images of {changes.gone} more are gone" if changes.gone else ""
    logger.info(f"{len(changes.changes)} of {changes.compared} past decisions would change{gone}")
    for change in changes.changes[:SHOWN]:
        past = change.past
        product = "" if change.product == past.product else f" ({change.product})"
        logger.info(f"  {past.path}: {past.label} -> {change.label}{product}")
    if len(changes.changes) > SHOWN:
        logger.info(f"  and {len(changes.changes) - SHOWN} more")
    if changes.defects:
        logger.info(
            f"of the last {changes.defects} confirmed defects, {changes.found} would be found, and "
            f"{changes.found_before} were"
        )
