"""Takes the pictures of the service's page: test images of a run, inspected by a real service.

python -m docs.service_picture runs/demo
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from docs.browser import shoot
from docs.diagrams import FOLDER
from docs.themes import COLOURS

IMAGES = 12
SIZE = "1400,860"


def examples(run: Path) -> list[Path]:
    """Test images of all products, good and defective ones in turn."""
    with (run / "report" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds: dict[tuple[str, str], list[Path]] = {}
    for row in rows:
        kinds.setdefault((row["product"], row["gt_label"]), []).append(Path(row["path"]))
    each = -(-IMAGES // len(kinds))
    spread = [paths[i * len(paths) // each] for i in range(each) for paths in kinds.values()]
    return spread[:IMAGES]


def take(run: Path) -> None:
    """Inspect the examples by a service with a record of its own, and open its page twice."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(run / "last.ckpt", folder)
        command = [sys.executable, "-m", "moleflow_pl.cli.main", "serve", folder, "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                line = service.stdout.readline()
                address = re.findall(r"http://\S+", line)[0]
                for path in examples(run):
                    content, url = path.read_bytes(), f"{address}/v1/inspect"
                    answer = httpx.post(
                        url, params={"name": path.name}, content=content, timeout=60
                    )
                    answer.raise_for_status()
                for theme in COLOURS:
                    shoot(address, FOLDER / f"service-{theme}.png", SIZE, theme == "dark")
            finally:
                service.terminate()


def main() -> None:
    """Read the arguments, take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a fit with test images")
    take(parser.parse_args().run)


if __name__ == "__main__":
    main()
