"""What it costs to learn from a part of every image's patches.

    python -m benchmarks.fraction --config configs/demo.yaml

Fits the same run with all patches in every step and with shares of them, on the same stored
features, and prints image AUROC, pixel AP and seconds of each task. All arguments but `--shares`
and `--seeds` are those of `moleflow fit`. Prints a table, and one line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moleflow_pl.report import shown

METRICS = ("image_auroc", "pixel_ap")


def fit(arguments: list[str], share: float, seed: int, folder: Path) -> dict[str, Any]:
    """The summary of one run."""
    run = folder / f"{share}-{seed}"
    command = [
        sys.executable, "cli.py", "fit", *arguments, f"--model.patch_fraction={share}",
        f"--seed_everything={seed}", f"--trainer.default_root_dir={run}",
        f"--data.feature_store={folder / 'features'}", "--trainer.enable_progress_bar=false",
        "--evaluation.evaluate_every_task=false",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((run / "report" / "summary.json").read_text())


def main() -> None:
    """Fit, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.125])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given, arguments = parser.parse_known_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for share in given.shares:
            runs = [fit(arguments, share, seed, Path(folder)) for seed in given.seeds]
            row: dict[str, Any] = {"share": share, "tasks": runs[0]["tasks"]}
            for metric in METRICS:
                columns = zip(*(run["metrics"][metric]["oracle"] for run in runs), strict=True)
                row[metric] = [None if None in c else statistics.mean(c) for c in columns]
            columns = zip(*(run["cost"]["fit_seconds"] for run in runs), strict=True)
            row["fit_seconds"] = [statistics.mean(column) for column in columns]
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    table = Table(title=f"mean of {len(given.seeds)} seeds: image AUROC / pixel AP / seconds")
    table.add_column("share")
    for task in rows[0]["tasks"]:
        table.add_column(task)
    for row in rows:
        cells = [
            f"{shown(auroc)} / {shown(ap)} / {seconds:.0f}"
            for auroc, ap, seconds in zip(
                *(row[name] for name in (*METRICS, "fit_seconds")), strict=True
            )
        ]
        table.add_row(f"{row['share']:g}", *cells)
    Console().print(table)
    print(json.dumps({"arguments": arguments, "seeds": given.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
