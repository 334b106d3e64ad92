# %% [markdown]
# # Deploy with onnxruntime
# An exported file needs neither torch nor this package: onnxruntime and a decoder are enough.
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
# The file holds its own description: products, labels and thresholds.

# %%
import json

import onnxruntime

session = onnxruntime.InferenceSession(given.run / "export" / "moleflow.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["moleflow"])
print(about["products"], about["labels"])

# %% [markdown]
# ## 3. Decide
# The graph takes RGB images of any size and resizes them as Pillow does.

# %%
import numpy as np
from PIL import Image

for path in sorted(given.images.rglob("*.png"))[:8]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))[None]
    answers = session.run(["score", "product", "label"], {"image": pixels})
    score, product, label = (answer[0] for answer in answers)
    decision = f"{about['products'][product]}, {score:.2f}, {about['labels'][label]}"
    print(f"{path.parent.name}/{path.name}: {decision}")

# %% [markdown]
# ## 4. Where the defect is
# The map holds raw scores. In an anomalous image, pixels above the product's pixel threshold show
# where the defect is.

# %%
(map_,) = session.run(["map"], {"image": pixels})
limit = about["thresholds"][product]["pixel"]
row, column = np.unravel_index(map_[0].argmax(), map_[0].shape)
print(f"{path.name}: {(map_[0] > limit).mean():.1%} of the pixels above {limit:.2f}")
print(f"highest at row {row}, column {column} of {map_[0].shape}")
