import os
from pathlib import Path

import numpy as np
import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl._internal import steps
from moleflow_pl._internal.files import is_partial
from moleflow_pl.errors import ConfigError, ExportError, OutputError
from moleflow_pl.export.pipeline import (
    IMAGES_PER_PRODUCT,
    export_checkpoint,
    partial_folder,
    run_images,
    task_of,
    trial_images,
)

Run = tuple[Path, MoLEFlow]


def test_a_checkpoint_becomes_one_verified_file(
    learned: Run, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(steps, "can_draw", lambda stream: True)
    output = tmp_path / "new" / "b.pt2"
    images = str(data_root / "b" / "test")
    said = export_checkpoint(learned[0] / "last.ckpt", output, "torch", "b", images)
    assert "products ['b']" in said
    assert f"verified on 6 images of {images}: relative differences of at most map" in said
    bars = capsys.readouterr().err
    assert "writing b.pt2: 100%" in bars
    assert "comparing it with the model: 100%" in bars
    assert sorted(path.name for path in output.parent.iterdir()) == ["b.pt2", "b.pt2.sha256"]
    batch = torch.zeros(1, 60, 80, 3, dtype=torch.uint8)
    assert torch.export.load(output).module()(batch)[0].shape == (1, 256, 256)


@pytest.mark.slow  # `test_runtimes.py` finds out a file of another model
def test_a_file_that_differs_is_not_kept(learned: Run, tmp_path: Path) -> None:
    output = tmp_path / "m.pt2"
    with pytest.raises(ExportError, match="differs from the model"):
        export_checkpoint(learned[0] / "last.ckpt", output, "torch", tolerance=1e-30)
    assert list(tmp_path.iterdir()) == []


def test_products_go_by_their_own_name_or_their_tasks(learned: Run) -> None:
    model = learned[1].inspector
    assert [task_of(model, name) for name in ("01", "b")] == [0, 1]
    with pytest.raises(ConfigError, match=r"no product 'x' in this model: it knows \['01', 'b'\]"):
        task_of(model, "x")


def test_images_of_the_run_are_taken_evenly_from_each_product(data_root: Path) -> None:
    data = {"layout": "mvtec", "root": str(data_root)}
    paths = run_images(data, ["01", "b"])
    assert len(paths) == 12
    assert {path.parent.name for path in paths} == {"good", "square"}
    assert run_images({**data, "root": "gone"}, ["01"]) == []
    many = run_images({"layout": "elpv"}, ["solar_mono", "solar_poly"])
    assert len(many) == 2 * IMAGES_PER_PRODUCT


def test_noise_stands_in_for_images_that_are_gone(learned: Run) -> None:
    images, source = trial_images(learned[1].inspector, [0, 1], {"root": "gone"}, None)
    assert [image.size for image in images] == IMAGES_PER_PRODUCT * [(64, 72)]
    assert all(np.asarray(image).std() > 70 for image in images)
    assert "--images" in source


@pytest.mark.parametrize("name", ["x.onnx", "x.onnx.sha256"])
def test_pipe_in_the_place_of_a_file_is_refused_before_the_model_is_read(
    name: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match=f"{name}: it is not a file but a pipe"):
        export_checkpoint(tmp_path / "missing.ckpt", tmp_path / "x.onnx")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).is_fifo()


def test_drafts_lie_under_a_temporary_name_and_are_removed(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "new" / "x.onnx") as folder:
        (folder / "x.onnx").touch()
        assert is_partial(folder)
        assert folder.parent == tmp_path / "new"
    assert not list((tmp_path / "new").iterdir())
