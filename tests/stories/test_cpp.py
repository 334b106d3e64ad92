"""The C++ program of the documentation, compiled and run."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl.export.pipeline import export_checkpoint
from tests.helpers.commands import ROOT

SOURCE = ROOT / "docs" / "howto" / "decide.cpp"
PLACES = [Path(path, "onnxruntime") for path in ("/usr/include", "/usr/local/include")]
LIBRARIES = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
HEADERS = [path for path in PLACES if (path / "onnxruntime_cxx_api.h").is_file()]
MISSING = [
    what
    for what, there in {
        "a compiler (g++)": shutil.which("g++"),
        "onnxruntime's headers (Debian's libonnxruntime-dev)": HEADERS,
        "onnxruntime's library, in its package": LIBRARIES,
    }.items()
    if not there
]


def build(folder: Path) -> Path:
    """The compiled program, which finds onnxruntime's library beside itself."""
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(LIBRARIES[-1])
    program = folder / "decide"
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", HEADERS[0], SOURCE]
    linked = [f"-L{folder}", "-lonnxruntime", "-Wl,-rpath,$ORIGIN", "-o", program]
    subprocess.run(["g++", *options, *linked], check=True)
    return program


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"there is no {' and no '.join(MISSING)}")
def test_a_program_in_cpp_decides_as_the_predictor_does(
    learned: tuple[Path, MoLEFlow], data_root: Path, tmp_path: Path
) -> None:
    checkpoint, file = learned[0] / "last.ckpt", tmp_path / "moleflow.onnx"
    export_checkpoint(checkpoint, file, images=str(data_root / "b" / "test"), tolerance=0.01)
    program, predictor = build(tmp_path), Predictor.load(checkpoint)
    noise = np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)
    # of another size than the model's, and oblong
    images = [Image.open(path) for path in sorted((data_root / "b" / "test").glob("*/*.png"))]
    images = [image.convert("RGB").resize((130, 71)) for image in images]
    labels = set()
    for image in [*images, Image.fromarray(noise)]:
        image.save(tmp_path / "image.ppm")
        command = [program, file, tmp_path / "image.ppm"]
        shown = subprocess.run(command, capture_output=True, check=True, text=True, env=os.environ)
        product, label, score = shown.stdout.split()
        expected = predictor(image)
        assert (product, label) == (expected.product, expected.label)
        assert float(score) == pytest.approx(expected.score, rel=1e-3)
        labels.add(label)
    assert len(labels) > 1
    (tmp_path / "image.ppm").write_bytes(b"P6 9 9 255\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_the_program_is_short() -> None:
    lines = SOURCE.read_text().splitlines()
    assert sum(bool(line.strip()) and line.lstrip()[:2] != "//" for line in lines) <= 35
