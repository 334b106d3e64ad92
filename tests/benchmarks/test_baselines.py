import json
from pathlib import Path

import pytest

from benchmarks import baselines
from docs import picture
from tests.helpers.story import Story


def test_baselines_stand_beside_a_finished_run(
    story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["baselines", str(story.moved / "last.ckpt")])
    baselines.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["products"] == ["01", "b"]
    lines = result["lines"]
    assert list(lines) == [
        baselines.RUN, baselines.FINE_TUNING, baselines.FLOWS, baselines.MEMORY_BANK,
    ]  # fmt: skip
    assert all(product["image_auroc"] == 1.0 for product in lines[baselines.MEMORY_BANK])
    summary = story.summary["metrics"]["image_auroc"]["routed"]
    assert [product["image_auroc"] for product in lines[baselines.RUN]] == summary


def test_the_readmes_picture_can_be_drawn(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.png"
    monkeypatch.setattr("sys.argv", ["picture", str(story.moved / "last.ckpt"), str(file)])
    picture.main()
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 1000
