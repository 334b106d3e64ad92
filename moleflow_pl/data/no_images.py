"""What to do where no image of the learned tasks is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from moleflow_pl.data.layouts.base import Root
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.errors import DataError

WITH_TESTS = "--data.layout mvtec --data.root DATA"  # options for a data set with test images


def no_images(
    purpose: Literal["train", "val", "test", "predict"],
    tasks: Sequence[str],
    layout: str,
    root: Root | None,
) -> DataError:
    """The error for a purpose without images, with the options that give some.

    Args:
        purpose: What the images are for; without others, test images are those to predict.
        tasks: Names of the learned tasks.
        layout: Name of the layout.
        root: Folder of the data set, or of each product.
    """
    where = f"data.root {root} (layout {layout})"
    if purpose == "predict":
        return DataError(
            f"no image to predict, and no test images of the learned tasks {tasks} in {where}: "
            "give images: moleflow predict RUN IMAGES (--data.predict_path)"
        )
    text = f"no image to {purpose} of the learned tasks {tasks}"
    if purpose == "test" and has_good_alone(layout):
        return DataError(
            f"{text}: layout {layout} has no test images; give a data set with them: {WITH_TESTS}"
        )
    return DataError(f"{text} in {where}: set --data.root to their folder")


def has_good_alone(layout: str) -> bool:
    """Whether a layout has no test images."""
    return getattr(LAYOUTS[layout], "good_alone", False)
