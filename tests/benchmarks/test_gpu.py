import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.harness import card_learning
from benchmarks.harness.cards import SMALL, Card, Session, auroc_of
from benchmarks.harness.report import Report
from tests.helpers.benchmarks import run_script


@pytest.mark.slow  # five tiny fits and an export
@pytest.mark.filterwarnings("ignore")
def test_small_form_runs_to_its_end_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "gpu.json"
    run_script(gpu.main, monkeypatch, "--small", "--minutes", 60, "--output", output)
    content = json.loads(output.read_text())
    assert content["failures"] == {}
    rows = {row["what"]: row for row in content["rows"]}
    for name in ("32-true", "bf16-mixed", "16-mixed"):
        assert rows[f"random weights, {name}: tensors that are not finite"]["value"] == 0
    assert rows["tensors that differ after a resume"]["value"] == 0
    assert rows["numbers read back in a training step"]["holds"]
    for what in ("learning at 64, 2 at once", "inspecting at 64, float32, 2 at once"):
        assert rows[what]["value"] > 0
    assert rows["exported file, CPUExecutionProvider: scores from the CPU's"]["value"] == 0
    assert rows["two processes by NCCL: scores from those of one"]["value"] is None


def test_without_a_gpu_the_full_form_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU that torch can use: --small"):
        run_script(gpu.main, monkeypatch)


def test_precisions_that_end_apart_or_broken_miss_their_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Model:
        inspector = torch.nn.Module()

    Model.inspector.flow = torch.nn.Linear(2, 2)
    scores = iter([[2.0, 3.0], [2.0, 0.5], [2.0, float("nan")]])
    monkeypatch.setattr(card_learning, "learn", lambda *_, **__: Model)
    monkeypatch.setattr(
        card_learning, "scores_of", lambda *_: {"good": [1.0, 1.5], "defective": next(scores)}
    )
    session = Session(Report("x"), seconds=60)
    card_learning.precisions(session, Card(torch.device("cpu"), SMALL, tmp_path), None)
    rows = {row.what: row.holds for row in session.report.rows}
    assert rows["random weights, 32-true: AUROC from that of float32"]
    assert not rows["random weights, bf16-mixed: AUROC from that of float32"]
    assert rows["random weights, bf16-mixed: tensors that are not finite"]
    assert not rows["random weights, 16-mixed: tensors that are not finite"]
    assert rows["given weights"]


def test_auroc_counts_pairs_in_order() -> None:
    assert auroc_of({"good": [1.0, 2.0], "defective": [1.5, 3.0]}) == 0.75
