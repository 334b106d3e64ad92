import pytest

from benchmarks import accuracy
from benchmarks.harness.beside_run import FINE_TUNING, FLOWS, MEMORY_BANK, RUN
from benchmarks.harness.products import METRICS
from tests.helpers.benchmarks import last_rows, run_script
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
