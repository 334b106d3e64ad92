"""Reviews of decisions: new versions of experts, previews of their effect, and data sets.

A person reviews whether decisions were right. Good images become calibration images of their
product, and false alarms also extend its memory banks. Confirmed defects measure the recall.
Nothing else in a model changes.
"""

from __future__ import annotations

import csv
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from moleflow_pl._internal.files import regular, writing
from moleflow_pl._internal.names import check_name, output_file, relative_names
from moleflow_pl.checkpoints.expert_edits import Checkpoint, extract, renamed
from moleflow_pl.checkpoints.expert_versions import replace as put_in_place
from moleflow_pl.checkpoints.experts import PLACEHOLDER, Expert
from moleflow_pl.checkpoints.io import read_checkpoint, restoring, write_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.checkpoints.run_lock import locked_for
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.data.batches import Batch
from moleflow_pl.data.images import read_image
from moleflow_pl.errors import DataError
from moleflow_pl.inference.decisions import Label
from moleflow_pl.inference.predictor import BATCH, Predictor, auto_device
from moleflow_pl.model.added_images import add_good_images
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.model.restore import PREFIX, inspector_of
from moleflow_pl.tasks.schedule import Task, minute_in_utc

Verdict = Literal["false_alarm", "missed_defect", "right", "other_product"]
COLUMNS = ("path", "product", "label", "verdict")
DEFECTS = 100  # last confirmed defects to measure the recall on
DEFECTIVE = "defective"  # folder of confirmed defects in an export


@dataclass(frozen=True)
class Review:
    """A person's review of one decision.

    Attributes:
        path: The image.
        product: The product that the decision named.
        label: The decision.
        verdict: `right`; `false_alarm` for a good image not labelled `normal`; `missed_defect` for
            a defective image labelled `normal` or unknown; `other_product` for an image of another
            product.
    """

    path: Path
    product: str
    label: Label
    verdict: Verdict

    @property
    def good(self) -> bool:
        """Whether the image is a good image of its product."""
        return self.verdict == "false_alarm" or (self.verdict, self.label) == ("right", "normal")

    @property
    def defective(self) -> bool:
        """Whether the image is a defective image of its product."""
        alarm = (self.verdict, self.label) == ("right", "anomalous")
        return self.verdict == "missed_defect" or alarm


def read_reviews(table: Path) -> list[Review]:
    """Read reviews from a CSV file with the columns path, product, label and verdict.

    Paths are relative to the folder of the file. Of several rows for an image the last counts.

    Raises:
        DataError: the file cannot be read, or a row is invalid.
    """
    try:
        reader = csv.DictReader(regular(table).read_text(encoding="utf-8-sig").splitlines())
        names, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged, or not UTF-8"
        raise DataError(
            f"cannot read the reviews {table}: {reason}; give a CSV file with {list(COLUMNS)}"
        ) from error
    missing = set(COLUMNS) - set(names)
    if missing:
        raise DataError(f"{table} has no columns {sorted(missing)}: it needs {list(COLUMNS)}")
    reviews = (review_of(row, table, line) for line, row in enumerate(rows, start=2))
    return list({review.path: review for review in reviews}.values())


def review_of(row: Mapping[str, str | None], table: Path, line: int) -> Review:
    """Parse a row of a table.

    Raises:
        DataError: the row is invalid.
    """
    if not row["path"] or not row["product"]:
        raise DataError(f"{table}, line {line}: path and product are empty or missing")
    for column, allowed in (("label", get_args(Label)), ("verdict", get_args(Verdict))):
        if row[column] not in allowed:
            value = row[column]
            raise DataError(
                f"{table}, line {line}: {column} must be one of {allowed}, got {value!r}"
            )
    verdict, label = row["verdict"], row["label"]
    if (verdict, label) in (("false_alarm", "normal"), ("missed_defect", "anomalous")):
        raise DataError(f"{table}, line {line}: a decision {label!r} cannot be a {verdict!r}")
    path = table.parent / str(row["path"])
    return Review(path, str(row["product"]), label, verdict)  # type: ignore[arg-type]


def reviewed_products(reviews: Sequence[Review], product: str | None = None) -> list[str]:
    """The products with good images among reviews: a given one, or all.

    Raises:
        DataError: no review is of a good image.
    """
    products = list(dict.fromkeys(review.product for review in reviews if review.good))
    if not products or product not in (None, *products):
        raise DataError(
            f"no good image{'' if product is None else f' of {product!r}'} among {len(reviews)} "
            "reviews: there is nothing to learn"
        )
    return products if product is None else [product]


def learn(inspector: Inspector, product: str, reviews: Sequence[Review], seed: int) -> int:
    """Add the good images of a product to its memory banks and its calibration, in memory.

    Args:
        inspector: The model.
        product: The product.
        reviews: Reviews of any products.
        seed: Seed of the run.

    Returns:
        The number of its task.

    Raises:
        ConfigError: the model does not know the product, or the product has no calibration.
        DataError: no review is of a good image, or an image cannot be read.
    """
    task = inspector.schedule.find(product)
    reviewed_products(reviews, product)
    good = [review for review in reviews if review.good and review.product == product]
    size = inspector.extractor.image_size
    names = relative_names([str(review.path.absolute()) for review in good])
    alarms: list[Batch] = []
    others: list[Batch] = []
    for review, name in zip(good, names, strict=True):
        image = read_image(review.path, size)[None]
        batches = alarms if review.verdict == "false_alarm" else others
        batches.append({"image": image, "product": [product], "path": [f"reviewed/{name}"]})
    add_good_images(inspector, task, seed, alarms, others)
    inspector.schedule.tasks[task].images += len(alarms)
    return task


def reviewed_expert(
    checkpoint: Checkpoint,
    inspector: Inspector,
    product: str,
    reviews: Sequence[Review],
    mark: str | None = None,
) -> Expert:
    """The next version of a product's expert, by its reviewed images.

    Args:
        checkpoint: The checkpoint of the model; not modified.
        inspector: The same model, which is modified.
        product: The product.
        reviews: Reviews of any products.
        mark: Added to `Task.reviews`.

    Raises:
        ConfigError: the model does not know the product, or the product has no calibration.
        DataError: no review is of a good image of the product, or an image cannot be read.
    """
    task = learn(inspector, product, reviews, checkpoint[STATE_KEY]["seed"])
    learned = inspector.schedule.tasks[task]
    learned.reviews = [*learned.reviews, *([] if mark is None else [mark])]
    expert = extract(checkpoint, learned.name)
    banks = f"{PREFIX}banks.{task}."
    state = {f"{PREFIX}{key}": value for key, value in inspector.state_dict().items()}
    for key, tensor in state.items():
        if key.startswith(banks):
            expert.tensors[renamed(checkpoint, key, PLACEHOLDER)] = tensor.cpu()
    # scores of the earlier version do not apply to this one
    expert.task = replace(learned, learned_at=minute_in_utc(), oracle_scores=None, evaluation=None)
    expert.metrics = {}
    return expert


def apply(
    path: Path,
    reviews: Sequence[Review],
    product: str | None = None,
    device: str | torch.device = "auto",
    before_write: Callable[[dict[str, str]], None] | None = None,
    **overrides: Any,
) -> list[Task]:
    """Replace the expert of each reviewed product by its next version.

    Args:
        path: A checkpoint to update; earlier versions are saved in `experts/versions/` of its run.
        reviews: The reviews.
        product: The only product to update; by default all.
        device: Where to compute.
        before_write: Called before the checkpoint is written, with the mark that each product's
            expert will hold in `Task.reviews`. Whoever stores them can tell after a crash whether
            the checkpoint was written.
        overrides: Arguments of the model, such as `backbone_weights`.

    Returns:
        The tasks of the new versions.

    Raises:
        MoLEFlowError: an expert cannot be replaced; the checkpoint is unchanged.
    """
    run, products = RunFolder.of(path), reviewed_products(reviews, product)
    with locked_for(path, run.root):
        checkpoint = read_checkpoint(path)
        place = auto_device() if device == "auto" else device
        inspector = inspector_of(checkpoint, path, place, **overrides)
        marks = {} if before_write is None else {name: secrets.token_hex(16) for name in products}
        # learn all before writing any
        experts = [
            reviewed_expert(checkpoint, inspector, name, reviews, marks.get(name))
            for name in products
        ]
        if before_write is not None:
            before_write(marks)
        with restoring(path):
            for expert in experts:
                put_in_place(checkpoint, expert, run)
            write_checkpoint(checkpoint, path)
    return [expert.task for expert in experts]


@dataclass(frozen=True)
class PastDecision:
    """An earlier decision of the line.

    Attributes:
        path: The image.
        product: The product that it named.
        label: Its label.
    """

    path: Path
    product: str
    label: str


@dataclass(frozen=True)
class ChangedDecision:
    """An earlier decision that would change.

    Attributes:
        past: The earlier decision.
        product: The product that it would name.
        label: Its new label.
    """

    past: PastDecision
    product: str
    label: str


@dataclass
class Preview:
    """Effect of a new version of experts.

    Attributes:
        thresholds: Threshold of each product with reviews, before and after.
        images: Number of good images to add to each product's calibration images.
        changes: Past decisions that would change.
        compared: Number of past decisions whose images still exist.
        gone: Number of past decisions whose images do not.
        defects: Number of the last confirmed defects.
        found_before: How many of these the line's decisions found.
        found: How many of these the new version finds.
    """

    thresholds: dict[str, tuple[float, float]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    changes: list[ChangedDecision] = field(default_factory=list)
    compared: int = 0
    gone: int = 0
    defects: int = 0
    found_before: int = 0
    found: int = 0


def preview(
    inspector: Inspector,
    reviews: Sequence[Review],
    past: Sequence[PastDecision],
    seed: int,
    products: Sequence[str] | None = None,
    defects: int = DEFECTS,
) -> Preview:
    """Compute what applying reviews would change.

    Args:
        inspector: The model, which is modified in memory.
        reviews: The reviews, in the order in which they were made.
        past: Decisions of the line to compare with.
        seed: Seed of the run.
        products: Products to update; by default all with good images.
        defects: Number of last confirmed defects to measure the recall on.

    Raises:
        ConfigError: the model does not know a product, or the product has no calibration.
        DataError: an image cannot be read.
    """
    result = Preview()
    for product in reviewed_products(reviews) if products is None else products:
        task = inspector.schedule.tasks[inspector.schedule.find(product)]
        old_threshold = threshold_of(task.calibration)
        learn(inspector, product, reviews, seed)
        result.thresholds[product] = (old_threshold, threshold_of(task.calibration))
        result.images[product] = sum(r.good and r.product == product for r in reviews)
    predictor = Predictor(inspector)
    present = [decision for decision in past if decision.path.is_file()]
    result.compared, result.gone = len(present), len(past) - len(present)
    predictions = predictor.stream([decision.path for decision in present], BATCH)
    for before, now in zip(present, predictions, strict=True):
        if (before.product, before.label) != (now.product, now.label):
            result.changes.append(ChangedDecision(before, now.product, str(now.label)))
    last = [review for review in reviews if review.defective and review.path.is_file()][-defects:]
    result.defects = len(last)
    result.found_before = sum(review.label != "normal" for review in last)
    decided = predictor.stream([review.path for review in last], BATCH)
    result.found = sum(prediction.label != "normal" for prediction in decided)
    return result


def threshold_of(calibration: Any) -> float:
    """The score threshold of a calibration; NaN without one."""
    return torch.nan if calibration is None else calibration.score_threshold.value


def export_reviews(reviews: Sequence[Review], folder: Path) -> dict[str, int]:
    """Copy reviewed images into a folder, in MVTec AD's layout.

    False alarms go to `<product>/train/good`, other good images to `<product>/test/good`, and
    defective ones to `<product>/test/defective`. Images of another product are left out.

    Returns:
        Number of images in each folder.

    Raises:
        DataError: an image is missing, or a product's name is invalid.
        OutputError: a file cannot be written.
    """
    placed = {review: place for review in reviews if (place := place_of(review)) is not None}
    names = relative_names([str(review.path.absolute()) for review in placed])
    counts: dict[str, int] = {}
    for (review, place), name in zip(placed.items(), names, strict=True):
        check_name(review.product)
        suffix = review.path.suffix
        # one output folder collects images of several input folders
        flat = name.removesuffix(suffix).replace("/", "_")
        target = output_file(folder / review.product / place, flat, suffix)
        try:
            source = regular(review.path)
        except OSError as error:
            raise DataError(
                f"no reviewed image at {review.path} ({error.strerror}): paths are relative to the "
                "table of reviews"
            ) from error
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        key = f"{review.product}/{place}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def place_of(review: Review) -> str | None:
    """The folder of a reviewed image within its product's; None to leave it out.

    Example:
        >>> place_of(Review(Path("a.png"), "a", "anomalous", "right"))
        'test/defective'
    """
    if review.defective:
        return f"test/{DEFECTIVE}"
    if not review.good:
        return None
    return "train/good" if review.verdict == "false_alarm" else "test/good"
