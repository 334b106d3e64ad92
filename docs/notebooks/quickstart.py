# %% [markdown]
# # Quickstart
# This notebook learns two real products, from folders of images to a file for the production line.
# It takes 15 minutes to read and two minutes to run. Install what it needs with
# `pip install -e '.[demo,export]'`. To run it as a script, use
# `python docs/notebooks/quickstart.py`. The images are solar cells of the package elpv-dataset, CC
# BY-NC-SA 4.0: not for commercial use.
#
# With fewer images or epochs it runs faster, but finds fewer defects.

# %%
# ruff: noqa: E402  # each cell imports what it needs
import argparse

parser = argparse.ArgumentParser(description="MoLE-Flow in 15 minutes.")
parser.add_argument("--images", type=int, default=120, help="images of each kind (%(default)s)")
parser.add_argument("--epochs", type=int, default=10, help="epochs a product (%(default)s)")
given, _ = parser.parse_known_args()  # a notebook has arguments of its own

# %% [markdown]
# ## 1. Lay out the images
# Each product has a folder: good images to learn from, and a few images of each kind to test with.
# Here they are copied out of the package. Your own images may already be in such folders.

# %%
import shutil
from pathlib import Path

from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.layouts.elpv import ELPVLayout

WORK = Path("tutorial")
DATA, RUN = WORK / "data", WORK / "run"
FIRST, SECOND = "solar_mono", "solar_poly"


def lay_out(records: list[ImageRecord], folder: Path) -> None:
    """Copy the first images of a kind into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in records[: given.images]:
        shutil.copy(record.path, folder)


cells = ELPVLayout()
for product in (FIRST, SECOND):
    test = cells.test(product)
    lay_out(cells.train(product), DATA / product / "train" / "good")
    lay_out([r for r in test if not r.gt_label], DATA / product / "test" / "good")
    lay_out([r for r in test if r.gt_label], DATA / product / "test" / "defective")

# %% [markdown]
# ## 2. Learn the first product
# The preset `demo` has a small backbone whose weights come from a package. Options on the command
# line override it.

# %%
import subprocess


def moleflow(*arguments: str) -> None:
    """Run the command `moleflow`, as in a shell."""
    print("\n$ moleflow", *arguments, flush=True)
    subprocess.run(["moleflow", *arguments], check=True)


moleflow(
    "fit",
    "--config=demo",
    f"--data.root={DATA}",
    "--data.layout=mvtec",
    f"--data.tasks=[{FIRST}]",
    f"--schedule.epochs_per_task={given.epochs}",
    f"--trainer.default_root_dir={RUN}",
)

# %% [markdown]
# ## 3. Months later: a second product
# The images of the first product are no longer needed for learning. The checkpoint holds the
# options of the run, so only the longer list of products is new. At the end, both products are
# evaluated, and the router decides which product each image shows.

# %%
moleflow("fit", f"--ckpt_path={RUN}", f"--data.tasks=[{FIRST}, {SECOND}]")

# %% [markdown]
# ## 4. Read the report
# `report/report.html` shows everything; `summary.json` holds the numbers. Row *i* of the matrix is
# the evaluation after learning product *i*. The first column of the oracle matrix does not change,
# because nothing is forgotten.

# %%
import json

summary = json.loads((RUN / "report" / "summary.json").read_text())
auroc = summary["metrics"]["image_auroc"]
print("image AUROC, routed:", dict(zip(summary["tasks"], auroc["routed"], strict=True)))
print("oracle, after each product:", auroc["oracle_matrix"])
print("routing accuracy:", summary["routing"]["accuracy"])
assert auroc["oracle_forgetting"] == 0

# %% [markdown]
# ## 5. New images
# The table has one row per image. A higher score means a more anomalous image. Scores have no fixed
# range, so compare them only within a product.

# %%
import csv

moleflow("predict", str(RUN), str(DATA / SECOND / "test"))
with (RUN / "predictions" / "predictions.csv").open() as file:
    rows = list(csv.DictReader(file))
for row in sorted(rows, key=lambda row: float(row["score"]))[:: max(len(rows) // 5, 1)]:
    print(f"{Path(row['path']).parent.name:10} {row['product']:10} {float(row['score']):8.1f}")

# %% [markdown]
# ## 6. In Python
# A `Predictor` takes images of any size, or their paths. For each, it returns the product, the
# score and the decision.

# %%
from moleflow_pl import Predictor

paths = [Path(row["path"]) for row in rows[:4]]
predictions = Predictor.load(RUN)(paths)
for path, prediction in zip(paths, predictions, strict=True):
    print(f"{path.name}: {prediction.product}, {prediction.score:.1f}, {prediction.label}")

# %% [markdown]
# ## 7. A file for the line
# `moleflow export` writes the router and the experts into one ONNX file, and compares it with the
# model. onnxruntime or OpenVINO can run the file without torch.

# %%
import numpy as np
import onnxruntime
from PIL import Image

moleflow("export", str(RUN))
session = onnxruntime.InferenceSession(RUN / "export" / "moleflow.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["moleflow"])
for path, prediction in zip(paths, predictions, strict=True):
    pixels = np.asarray(Image.open(path).convert("RGB"))[None]  # one image of any size
    (score,), (place,), (label,) = session.run(["score", "product", "label"], {"image": pixels})
    limit = about["thresholds"][place]["score"]
    decision = f"score {score:.1f} of {limit:.1f}: {about['labels'][label]}"
    print(f"{path.name}: {about['products'][place]}, {decision}")
    np.testing.assert_allclose(score, prediction.score, rtol=1e-4)
print(f"\nDone. Open {RUN / 'report' / 'report.html'}.")
