import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import peers
from benchmarks.harness.rivals import MAP, Ours, Scores, offline
from moleflow_pl.data.layouts.base import ImageRecord
from tests.helpers.benchmarks import TINY, run_script

ROUNDS = 2


class Brightest:
    """A rival: an image's score is its brightest pixel above those it has learned."""

    weights, continual = "none", False

    def start(self) -> None:
        pass

    def learn(self, products: Mapping[str, Sequence[ImageRecord]], folder: Path) -> None:
        (records,) = products.values()
        folder.mkdir(parents=True)
        top = max(int(self.pixels(record.path).max()) for record in records)
        (folder / "top").write_text(str(top))

    def load(self, folder: Path, product: str) -> None:
        self.top = int((folder / "top").read_text())

    def score(self, paths: Sequence[Path]) -> Scores:
        maps = torch.stack([self.pixels(path) - self.top for path in paths])
        return maps.amax((1, 2)).tolist(), maps

    def size(self, folder: Path, product: str) -> int:
        return (folder / "top").stat().st_size

    @staticmethod
    def pixels(path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            return torch.from_numpy(np.asarray(image.convert("L").resize(MAP)).copy()).float()


class Broken(Brightest):
    """A rival that does not run here."""

    def learn(self, products: Mapping[str, Sequence[ImageRecord]], folder: Path) -> None:
        raise subprocess.CalledProcessError(1, "learn")


def run(
    monkeypatch: pytest.MonkeyPatch, root: Path, folder: Path, makers: peers.Makers
) -> tuple[int, list[str]]:
    """Exit code of a small run, and the steps that were taken, all in this process."""
    steps: list[str] = []

    def launch(command: list[str], **_: object) -> None:
        steps.append(command[-3])
        before = sys.argv
        try:
            run_script(lambda: peers.main(makers), monkeypatch, *command[3:])
        finally:
            monkeypatch.setattr("sys.argv", before)

    monkeypatch.setattr(peers.subprocess, "run", launch)
    arguments = ("--root", root, "--products", "01", "b", "--folder", folder, "--small")
    arguments = (*arguments, "--rounds", ROUNDS)
    return run_script(lambda: peers.main(makers), monkeypatch, *arguments), steps


def test_rivals_are_measured_alike_and_a_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    data_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    makers: peers.Makers = {"brightest": Brightest}
    code, steps = run(monkeypatch, data_root, tmp_path, makers)
    one = ["learn-0", "learn-1", "inspect", "time-0", "time-1"]
    assert (code, steps) == (0, [*one, *one])
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("*/inspect.json")]
    assert len(facts) == 2
    for found in facts:
        assert found["image_auroc"] == found["recall"] == 1  # defects are bright squares
        assert found["false_alarms"] <= 0.5
        assert found["pixel_ap"] > 0.9
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("*/time-*.json")]
    assert len(facts) == 4
    assert all(found["first_s"] > 0 and found["ms_alone"] > 0 for found in facts)
    again, steps = run(monkeypatch, data_root, tmp_path, makers)
    assert (again, steps) == (0, [])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| bright")]
    assert len(table) == 4
    assert "1.000" in table[0]


def test_rivals_take_turns_in_every_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_root: Path
) -> None:
    makers = {"one": Brightest, "other": Brightest}
    steps = run(monkeypatch, data_root, tmp_path, makers)[1]
    assert steps[:6] == ["learn-0", "learn-0", "learn-1", "learn-1", "inspect", "inspect"]


def test_a_figure_is_the_median_over_the_rounds(tmp_path: Path) -> None:
    for i, seconds in enumerate((1.0, 9.0, 2.0)):
        facts = {"seconds": seconds, "peak_mb": seconds, "bytes": {"01": 5}}
        peers.write_facts(tmp_path / f"learn-{i}.json", facts)
    assert peers.facts_of(tmp_path) == {"seconds": 2.0, "peak_mb": 9.0, "bytes": {"01": 5}}


def test_a_rival_that_fails_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    data_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, steps = run(monkeypatch, data_root, tmp_path, {"broken": Broken, "brightest": Brightest})
    assert code == 1
    assert steps[:3] == ["learn-0", "learn-0", "learn-1"]
    assert "| broken | 01 | learn-0 failed with exit code 1 |" in capsys.readouterr().out


def test_ours_goes_through_the_same_harness(tmp_path: Path, data_root: Path) -> None:
    sources = peers.product_sources(["01"], str(data_root), **peers.SMALL)
    rival = Ours(TINY, "random", epochs=1)
    learned = peers.learn(rival, sources, tmp_path / "model")
    assert learned["bytes"]["01"] > 1000
    found = peers.inspect(rival, sources[0], tmp_path / "model")
    assert 0 <= found["image_auroc"] <= 1
    assert found["pixel_ap"] > 0
    assert found["peak_mb"] > 0


def test_images_of_the_threshold_are_not_learned_from(data_root: Path) -> None:
    (source,) = peers.product_sources(["01"], str(data_root))
    kept, held = peers.divided(source)
    assert len(held) == 1
    assert len(kept) == 5
    assert not {record.path for record in kept} & {record.path for record in held}


def test_backbones_without_a_file_are_random_and_need_no_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import timm

    asked: list[object] = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append(options))
    with offline({"a": "a.safetensors"}):
        timm.create_model("a.tag", pretrained=True, pretrained_cfg=None, features_only=True)
        timm.create_model("b", pretrained=True)
        timm.create_model("a")
    overlay = {"pretrained_cfg_overlay": {"file": "a.safetensors"}, "features_only": True}
    assert asked == [{"pretrained": True, **overlay}, {"pretrained": False}, {"pretrained": False}]
