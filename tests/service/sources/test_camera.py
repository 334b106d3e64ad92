"""A camera, by a stand-in for OpenCV."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from moleflow_pl.service.database import Inspection
from moleflow_pl.service.state import Service
from tests.helpers.service import client_of, count, picture, settings_for, wait_until

Learned = tuple[Path, MoLEFlow]


def opencv(content: bytes, images: int) -> SimpleNamespace:
    """OpenCV with a camera that gives some images, and then none."""
    left = iter(range(images))

    class Capture:
        def __init__(self, place: int | str) -> None:
            assert place == 0

        def read(self) -> tuple[bool, object]:
            return next(left, None) is not None, np.zeros((4, 4, 3), np.uint8)

        def release(self) -> None:
            pass

    return SimpleNamespace(
        VideoCapture=Capture, imencode=lambda kind, frame: (True, np.frombuffer(content, np.uint8))
    )


def test_a_camera_is_looked_at_until_it_gives_nothing_and_that_is_told(
    tmp_path: Path, learned: Learned, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", opencv(picture(data_root), 3))
    settings = settings_for(tmp_path, learned[0], sources=["camera:0"], interval=0.0)
    with client_of(settings) as client:
        service = client.service  # type: ignore[attr-defined]
        wait_until(lambda: count(service.database, Inspection) == 3)
        wait_until(lambda: not service.sources[0].health.ok)
        told = client.get("/readyz").json()["sources"][0]
        assert told["detail"] == "the camera returned no image"


def test_a_camera_without_opencv_says_what_to_install(
    tmp_path: Path, learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match="pip install opencv-python-headless"):
        Service(settings_for(tmp_path, learned[0], sources=["camera:0"]))
