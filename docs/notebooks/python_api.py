# %% [markdown]
# # Without a command line
# This notebook learns two real products in Python. Install what it needs with
# `pip install -e '.[demo]'`. To run it as a script, use `python docs/notebooks/python_api.py`. The
# images are solar cells of the package elpv-dataset, CC BY-NC-SA 4.0: not for commercial use.

# %%
# ruff: noqa: E402  # each cell imports what it needs
import argparse

parser = argparse.ArgumentParser(description="MoLE-Flow from Python.")
parser.add_argument("--images", type=int, default=120, help="images of each kind (%(default)s)")
parser.add_argument("--epochs", type=int, default=10, help="epochs a product (%(default)s)")
given, _ = parser.parse_known_args()  # a notebook has arguments of its own

# %% [markdown]
# ## 1. Images
# Each product has a folder in the layout of MVTec AD. A folder of good images alone is enough, too.
# Here the images are copied out of the package.

# %%
import shutil
from pathlib import Path

from moleflow_pl.data.layouts.elpv import ELPVLayout

WORK = Path("python")
DATA, RUN = WORK / "data", WORK / "run"
cells = ELPVLayout()
for product in cells.products():
    tests = cells.test(product)
    parts = {
        "train/good": cells.train(product),
        "test/good": [record for record in tests if not record.gt_label],
        "test/defective": [record for record in tests if record.gt_label],
    }
    for part, records in parts.items():
        folder = DATA / product / part
        folder.mkdir(parents=True, exist_ok=True)
        for record in records[: given.images]:
            shutil.copy(record.path, folder)

# %% [markdown]
# ## 2. A model, its data and Lightning's Trainer
# `from_preset` takes the model's arguments from a preset of the command. `make_trainer` builds
# Lightning's Trainer with the callbacks that learn one task after another, evaluate them and write
# the run folder. You may use any Trainer that has a `TaskSchedulerCallback`. Messages and tables go
# to the logger `moleflow_pl`, which shows nothing by default.

# %%
import logging

from lightning.pytorch import seed_everything

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import make_trainer

logging.basicConfig(format="%(message)s")
logging.getLogger("moleflow_pl").setLevel(logging.INFO)
seed_everything(0)
model = MoLEFlow.from_preset("demo")
data = ContinualDataModule(str(DATA), ["solar_mono"], num_workers=0)
make_trainer(RUN, epochs_per_task=given.epochs).fit(model, datamodule=data)

# %% [markdown]
# ## 3. One more product
# Months later, `add_product` learns one more folder of images, without the images of the first
# product. Everything learned before stays the same, bit for bit. To continue with a saved model,
# load it with `MoLEFlow.load_from_checkpoint(RUN / "last.ckpt")`.

# %%
import json

from moleflow_pl import add_product

task = add_product(
    model,
    "solar_poly",
    DATA / "solar_poly",
    RUN,
    {"num_workers": 0},
    epochs_per_task=given.epochs,
)
summary = json.loads((RUN / "report" / "summary.json").read_text())
print("image AUROC, routed:", summary["metrics"]["image_auroc"]["routed"])

# %% [markdown]
# ## 4. Thresholds
# Thresholds are computed from the calibration images and a false-alarm rate, which you can change
# at any time. You can also set thresholds yourself.

# %%
from moleflow_pl import Predictor

assert task.calibration is not None
print("at 1 %:", task.calibration.score_threshold)
model.schedule.set_false_alarm_rate(0.05, "solar_poly")
print("at 5 %:", task.calibration.score_threshold)
inspect = Predictor(model)
strict = Predictor(model, thresholds={"solar_poly": 0.0})

# %% [markdown]
# ## 5. Decisions
# A `Predictor` takes one image or many, in many forms. A notebook shows the picture that `plot`
# returns.

# %%
paths = sorted((DATA / "solar_poly" / "test").rglob("*.png"))[:4]
for path, prediction in zip(paths, inspect.stream(paths), strict=True):
    print(path.parent.name, prediction, f"{len(prediction.boxes)} boxes")
prediction = inspect(paths[0])
prediction.plot(paths[0]).save(WORK / "defect.png")
print(json.dumps(prediction.to_dict(), indent=1))
assert strict(paths[0]).label != "normal"
print(f"\nDone. Open {RUN / 'report' / 'report.html'}.")
