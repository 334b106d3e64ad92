from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.harness.beside_run import FINE_TUNING, FLOWS, MEMORY_BANK, RUN, compare
from benchmarks.harness.products import METRICS
from tests.helpers.benchmarks import TINY, last_rows, run_script, tiny_study
from tests.helpers.story import Story


def test_baselines_stand_beside_a_finished_run(
    story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(accuracy.main, monkeypatch, "--run", story.moved / "last.ckpt") == 0
    found = {what: row["value"] for what, row in last_rows(capsys).items()}
    lines = (RUN, FINE_TUNING, FLOWS, MEMORY_BANK)
    assert list(found) == [
        f"{line}: {product}, {metric}"
        for metric in METRICS for line in lines for product in ("01", "b")
    ]  # fmt: skip
    summary = story.summary["metrics"]["image_auroc"]["routed"]
    for product, own in zip(("01", "b"), summary, strict=True):
        assert found[f"{MEMORY_BANK}: {product}, image_auroc"] == 1.0
        assert found[f"{RUN}: {product}, image_auroc"] == own


def test_baselines_see_the_groups_that_the_flow_sees(tmp_path: Path, data_root: Path) -> None:
    groups = {"layers": [[0], [1], [1]], "patch_fraction": 1.0}
    study = tiny_study(tmp_path, data_root, TINY.with_features("groups", **groups))
    found = compare(study.plain_model, [study.features("b")], epochs=1)
    assert [*found] == [FINE_TUNING, FLOWS, MEMORY_BANK]
    assert found[MEMORY_BANK][0]["image_auroc"] == 1.0
