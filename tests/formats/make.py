"""Makes the small checkpoint of a version that later ones have to load.

    python -m tests.formats.make tests/formats/0.2.0

Run it once for each version that changes what a checkpoint holds, and keep the older folders.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from moleflow_pl import MoLEFlow
from tests.conftest import SIZE, draw_product, fit

MODEL = {
    "backbone": "test_efficientnet", "layers": [1], "coupling_layers": 2, "lora_rank": 2,
    "score": "bank", "bank_size": 20,
}  # fmt: skip
TASKS = ["01", "b"]


def probe() -> Tensor:
    """Images (4, 3, H, W) that are the same on every machine."""
    ramp = torch.arange(4 * 3 * SIZE * SIZE) * 7919 % 256
    return ramp.reshape(4, 3, SIZE, SIZE).to(torch.uint8)


def answers(model: MoLEFlow) -> dict[str, list]:
    """What a model says of them."""
    with torch.no_grad():
        inspection = model.eval()(probe())
    return {"score": inspection.score.tolist(), "task": inspection.task.tolist()}


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        for seed, name in enumerate(TASKS):
            draw_product(Path(place) / "data", name, seed)
        model = fit(Path(place) / "run", Path(place) / "data", list(TASKS), model=MODEL)
        folder.mkdir(parents=True)
        (folder / "last.ckpt").write_bytes((Path(place) / "run" / "last.ckpt").read_bytes())
    (folder / "answers.json").write_text(json.dumps(answers(model), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
