"""Makes the files of a schema that later versions have to read: checkpoint, expert, summary.

    python -m tests.formats.make tests/formats/schema1

Run it once for each schema, and keep the older folders.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.expert_edits import extract
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.data.images import read_image
from tests.helpers.models import fit
from tests.helpers.products import SIZE, draw_product

MODEL = {
    "backbone": "test_efficientnet", "layers": [[1], [2]], "coupling_layers": 2, "lora_rank": 2,
    "score": ["depths", "groups"], "bank_mb": 0.01,
}  # fmt: skip
TASKS = ["01", "b"]
EXPERT, EXPERT_FILE = "b", "b.safetensors"


def answers(model: MoLEFlow, images: Tensor) -> dict[str, list]:
    """What a model says of images (N, 3, H, W)."""
    with torch.no_grad():
        found = model.eval()(images)
    return {
        "score": found.score.tolist(),
        "task": found.task.tolist(),
        "distances": found.distances.tolist(),
        "novelty_distance": found.novelty_distance.tolist(),
    }


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        for seed, name in enumerate(TASKS):
            draw_product(Path(place) / "data", name, seed)
        model = fit(Path(place) / "run", Path(place) / "data", list(TASKS), model=MODEL)
        folder.mkdir(parents=True)
        run = RunFolder(Path(place) / "run")
        for path in (run.root / "last.ckpt", run.summary):
            shutil.copy(path, folder)
        extract(read_checkpoint(folder / "last.ckpt"), EXPERT).save(folder / EXPERT_FILE)
        paths = sorted(Path(place).glob("data/*/test/*/000.png"))
        images = torch.stack([read_image(path, (SIZE, SIZE)) for path in paths])
    np.save(folder / "probe.npy", images.numpy())
    (folder / "answers.json").write_text(json.dumps(answers(model, images), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
