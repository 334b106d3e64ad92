import logging
from pathlib import Path

import pytest

from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.cli.changed_model import save_changed
from tests.helpers.checkpoints import bare_checkpoint


def test_a_changed_model_names_its_file_and_the_exports_that_are_older(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "last.ckpt"
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        save_changed(bare_checkpoint(), path)
    assert caplog.messages == [f"saved: {path}"]
    assert read_checkpoint(path)
    (tmp_path / "export").mkdir()
    for name in ("moleflow.onnx", "moleflow.onnx.sha256", "b.pt2"):
        (tmp_path / "export" / name).touch()
    caplog.clear()
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        save_changed(bare_checkpoint(), path)
    assert caplog.messages[1].startswith(f"b.pt2, moleflow.onnx in {tmp_path / 'export'} still")
    assert caplog.messages[1].endswith(f"moleflow export {tmp_path} writes the new one")
