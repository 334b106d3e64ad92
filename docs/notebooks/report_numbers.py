# %% [markdown]
# # The report's numbers
# The folder `report/` of a run holds its numbers as JSON and CSV. pandas reads both
# (`pip install pandas`). Use the run of the [quickstart](quickstart.md), or any other run with test
# images: `python docs/notebooks/report_numbers.py --run runs/demo`.

# %%
# ruff: noqa: E402  # each cell imports what it needs
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="Read a run's report with pandas.")
parser.add_argument("--run", type=Path, default=Path("tutorial/run"), help="(%(default)s)")
given, _ = parser.parse_known_args()  # a notebook has arguments of its own
REPORT = given.run / "report"

# %% [markdown]
# ## 1. Metrics of each product
# *Routed*: the router chose the expert. *Oracle*: the task ID is known, so each image is scored by
# the expert of its own task.

# %%
import json

import pandas as pd

summary = json.loads((REPORT / "summary.json").read_text())
metrics = pd.DataFrame(
    {
        (name, mode): values[mode]
        for name, values in summary["metrics"].items()
        for mode in ("routed", "oracle")
    },
    index=summary["tasks"],
).dropna(axis="columns", how="all")  # without masks there are no pixel metrics
print(metrics.T.to_string(float_format="{:.3f}".format))

# %% [markdown]
# ## 2. Nothing is forgotten
# Row *i* is the evaluation after learning product *i*. In the oracle matrix, the values of a column
# stay the same.

# %%
auroc = summary["metrics"]["image_auroc"]
matrix = pd.DataFrame(auroc["oracle_matrix"], index=summary["tasks"], columns=summary["tasks"])
print(matrix.to_string(float_format="{:.3f}".format, na_rep=""))
assert auroc["oracle_forgetting"] == 0

# %% [markdown]
# ## 3. Decisions, counted from the scores
# `scores.csv` has one row per test image. The counts are the same as in the report.

# %%
scores = pd.read_csv(REPORT / "scores.csv")
scores["image"] = scores["gt_label"].map({0: "good", 1: "defective"})
print(pd.crosstab([scores["product"], scores["image"]], scores["label"]))

# %% [markdown]
# ## 4. Another false-alarm rate
# `alarm_rate` is the lowest false-alarm rate at which an image would be labelled `anomalous`. So
# you can compute the recall at any rate without a new evaluation.

# %%
defective = scores[scores["image"] == "defective"]
for rate in (0.001, 0.01, 0.05, 0.1):
    recall = (defective["alarm_rate"] <= rate).groupby(defective["product"]).mean()
    print(f"asked for {rate:.1%}: recall", recall.round(3).to_dict())

# %% [markdown]
# ## 5. What was missed
# These defective images are the farthest below their threshold.

# %%
missed = defective[defective["label"] == "normal"].sort_values("normalised_score")
print(missed[["path", "product", "score", "threshold"]].head().to_string(index=False))
