# %% [markdown]
# # The report's numbers
# `report/` holds them as JSON and CSV; pandas reads both (`pip install pandas`). Any run with test
# images does: that of the [quickstart](quickstart.md), or
# `python docs/notebooks/report_numbers.py --run runs/demo`.

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
# *Routed*: the router chose the expert. *Oracle*: the expert is that of the product.

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
# Row *i* is the evaluation after learning product *i*. By its own expert, a column stays the same.

# %%
auroc = summary["metrics"]["image_auroc"]
matrix = pd.DataFrame(auroc["oracle_matrix"], index=summary["tasks"], columns=summary["tasks"])
print(matrix.to_string(float_format="{:.3f}".format, na_rep=""))
assert auroc["oracle_forgetting"] == 0

# %% [markdown]
# ## 3. Decisions, counted from the scores
# One row a test image. The counts are those of the report.

# %%
scores = pd.read_csv(REPORT / "scores.csv")
scores["image"] = scores["gt_label"].map({0: "good", 1: "defective"})
print(pd.crosstab([scores["product"], scores["image"]], scores["label"]))

# %% [markdown]
# ## 4. Another false-alarm rate
# `alarm_rate` is the lowest rate at which an image would be called anomalous. So the recall at any
# rate needs no new evaluation.

# %%
defective = scores[scores["image"] == "defective"]
for rate in (0.001, 0.01, 0.05, 0.1):
    recall = (defective["alarm_rate"] <= rate).groupby(defective["product"]).mean()
    print(f"asked for {rate:.1%}: recall", recall.round(3).to_dict())

# %% [markdown]
# ## 5. What was missed
# The defective images that are farthest below their threshold.

# %%
missed = defective[defective["label"] == "normal"].sort_values("normalised_score")
print(missed[["path", "product", "score", "threshold"]].head().to_string(index=False))
