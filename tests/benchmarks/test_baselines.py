import json
from pathlib import Path

import pytest
from PIL import Image

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


def test_the_picture_of_the_products_can_be_drawn(
    story: Story, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["picture", str(story.moved / "last.ckpt"), str(data_root), str(tmp_path / "p")]
    monkeypatch.setattr("sys.argv", words)
    picture.main()
    for theme in ("light", "dark"):
        with Image.open(tmp_path / f"p-{theme}.webp") as drawn:
            assert min(drawn.size) > 100
