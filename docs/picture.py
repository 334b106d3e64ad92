"""Draws the README's picture: test images of a run with their heatmaps.

python docs/picture.py runs/demo/last.ckpt docs/demo.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.data.images import read_image
from moleflow_pl.scoring.functional import anomaly_map

EXAMPLES = 4  # of a product: two good images, two defective ones


def examples(report: Path, product: str) -> list[dict[str, str]]:
    """The good images of median score and the defective ones around the upper quartile."""
    with (report / "scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["product"] == product]
    rows.sort(key=lambda row: float(row["score"]))
    good = [row for row in rows if row["gt_label"] == "0"]
    bad = [row for row in rows if row["gt_label"] == "1"]
    middle, high = len(good) // 2, 3 * len(bad) // 4
    return good[middle - 1 : middle + 1] + bad[high - 1 : high + 1]


def draw(checkpoint: Path, picture: Path) -> None:
    """Score the examples of every product, routed, and draw them."""
    model = MoLEFlow.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    size = model.inspector.extractor.image_size
    names = model.schedule.names
    figure, axes = plt.subplots(2 * len(names), EXAMPLES, figsize=(8, 4.3 * len(names)))
    for i, name in enumerate(names):
        rows = examples(checkpoint.parent / "report", name)
        images = torch.stack([read_image(Path(row["path"]), size) for row in rows])
        with torch.no_grad():
            inspection = model(images)
        maps = anomaly_map(inspection.patch_scores, size)
        low, high = maps.quantile(0.5).item(), maps.max().item()
        for j, row in enumerate(rows):
            above, below = axes[2 * i, j], axes[2 * i + 1, j]
            above.imshow(images[j].permute(1, 2, 0))
            above.set_title(row["defect"], fontsize=9)
            below.imshow(images[j].permute(1, 2, 0))
            below.imshow(maps[j], cmap="inferno", alpha=0.6, vmin=low, vmax=high)
            title = f"{inspection.score[j]:.0f}, routed to\n{names[inspection.task[j]]}"
            below.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(picture, dpi=80)


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    draw(args.checkpoint, args.picture)


if __name__ == "__main__":
    main()
