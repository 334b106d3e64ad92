# %% [markdown]
# # Deploy with onnxruntime
# An exported file needs neither torch nor this package: Pillow, numpy and onnxruntime are enough.
# Use the run of the [quickstart](quickstart.md), or any other:
# `python docs/notebooks/deploy.py --run runs/demo --images new`.

# %%
# ruff: noqa: E402  # each cell imports what it needs
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="Decide about images with onnxruntime.")
parser.add_argument("--run", type=Path, default=Path("tutorial/run"), help="(%(default)s)")
parser.add_argument("--images", type=Path, default=Path("tutorial/data/solar_poly/test"))
given, _ = parser.parse_known_args()  # a notebook has arguments of its own

# %% [markdown]
# ## 1. Export
# Export once, on a machine with torch. The command compares the file with the model before it saves
# it.

# %%
import subprocess

subprocess.run(["moleflow", "export", str(given.run)], check=True)

# %% [markdown]
# ## 2. Load
# The file holds its own description: image size, products and thresholds.

# %%
import json

import onnxruntime

session = onnxruntime.InferenceSession(given.run / "export" / "moleflow.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["moleflow"])
print(about["image_size"], about["products"])

# %% [markdown]
# ## 3. Read an image
# The graph takes RGB images that are resized with Pillow's bicubic filter, as in training.

# %%
import numpy as np
from PIL import Image


def read(path: Path) -> np.ndarray:
    """An image (3, height, width), uint8."""
    height, width = about["image_size"]
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


# %% [markdown]
# ## 4. Decide
# The rules are in this order so that a score that is not a number is never `normal`.


# %%
def decide(score: float, product: int, novelty: float) -> str:
    """The label of an image."""
    if not novelty <= 1:
        return "unknown_product"
    return "normal" if score <= about["thresholds"][product]["score"] else "anomalous"


for path in sorted(given.images.rglob("*.png"))[:8]:
    answers = session.run(["score", "product", "novelty"], {"image": read(path)[None]})
    score, product, novelty = (answer[0] for answer in answers)
    label = decide(score, product, novelty)
    print(f"{path.parent.name}/{path.name}: {about['products'][product]}, {score:.2f}, {label}")

# %% [markdown]
# ## 5. Where the defect is
# The map holds raw scores. The threshold for pixels is stored next to that for images.

# %%
(map_,) = session.run(["map"], {"image": read(path)[None]})
row, column = np.unravel_index(map_[0].argmax(), map_[0].shape)
print(f"{path.name}: highest at row {row}, column {column} of {map_[0].shape}")
