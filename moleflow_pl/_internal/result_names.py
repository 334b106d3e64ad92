"""Names of the files and folders of results.

They lie in `report/` and `predictions/` of a run, or in another folder that a command was given.
`checkpoints.run_folder` has all paths of a run.
"""

from __future__ import annotations

# of an evaluation
PAGE_FILE = "report.html"
SUMMARY_FILE = "summary.json"
MATRIX_FILE, SCORES_FILE = "matrix.csv", "scores.csv"

# of `predict`; a folder with the first two was written by it
STATE_FILE, TABLE_FILE = "run.json", "predictions.csv"
IMAGES_FILE, BOXES_FILE, SKIPPED_FILE = "images.csv", "boxes.csv", "skipped.csv"
PICTURE_NAMES_FILE = "pictures.json"
HEATMAPS, MAPS, MASKS = "heatmaps", "maps", "masks"
