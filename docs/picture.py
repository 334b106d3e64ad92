"""Draws images of each product with their heatmaps: `python -m docs.picture RUN IMAGES PICTURE`.

RUN knows the products, IMAGES holds them in MVTec's layout. The picture comes in two colours, as
PICTURE-light.webp and PICTURE-dark.webp.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from docs.themes import COLOURS, decision_text, styled
from moleflow_pl import Prediction, Predictor

EXAMPLES = 4  # of a product: a good image, three defective ones
DPI = 110

Inspected = tuple[Image.Image, Prediction]


def examples(images: Path, product: str) -> list[Path]:
    """A good image and defective ones, from places evenly spread over all of them."""
    kinds = sorted(folder for folder in (images / product / "test").iterdir())
    good = sorted((images / product / "test" / "good").iterdir())
    bad = [path for kind in kinds if kind.name != "good" for path in sorted(kind.iterdir())]
    places = [(2 * i + 1) * len(bad) // (2 * (EXAMPLES - 1)) for i in range(EXAMPLES - 1)]
    return [good[len(good) // 2], *(bad[place] for place in places)]


def inspect(predictor: Predictor, paths: Sequence[Path]) -> list[Inspected]:
    """Images, and what the model says of them."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    return list(zip(pictures, predictor(pictures), strict=True))


def draw(rows: Sequence[Sequence[Inspected]], theme: str) -> plt.Figure:
    """Draw images above their heatmaps, a product in two rows."""
    figure, axes = plt.subplots(2 * len(rows), EXAMPLES, figsize=(7, 3.95 * len(rows)))
    for i, row in enumerate(rows):
        for j, (image, prediction) in enumerate(row):
            text, label = decision_text(prediction)
            above, below = axes[2 * i, j], axes[2 * i + 1, j]
            above.imshow(image)
            above.set_title(prediction.product, fontsize=11)
            below.imshow(prediction.plot(image, boxes=False))
            below.set_title(text, fontsize=11, color=COLOURS[theme][label])
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(h_pad=0.4)
    return figure


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("picture", type=Path, help="file to write, without its ending")
    given = parser.parse_args()
    predictor = Predictor.load(given.run)
    rows = [inspect(predictor, examples(given.images, name)) for name in predictor.products]
    for theme in COLOURS:
        with styled(theme):
            figure = draw(rows, theme)
            target = given.picture.with_name(f"{given.picture.name}-{theme}.webp")
            figure.savefig(target, dpi=DPI, pil_kwargs={"quality": 80, "method": 6})
            plt.close(figure)


if __name__ == "__main__":
    main()
