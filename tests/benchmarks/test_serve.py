from pathlib import Path

import pytest

from benchmarks import serve
from benchmarks.serve import Sent, rows
from moleflow_pl import MoLEFlow
from tests.helpers.benchmarks import last_rows, run_script
from tests.helpers.service import settings_for

ALONE = {"single": 0.010, "batch": 100.0, "cpu": 0.02}


@pytest.mark.parametrize(
    ("clients", "rate", "seconds", "missed"),
    [
        (1, 50.0, 0.0149, []),
        (1, 50.0, 0.0151, ["1 client, p50"]),
        (8, 10.0, 1.0, []),
        (64, 95.0, 1.0, []),
        (64, 94.0, 1.0, ["64 clients, rate / that of batches"]),
    ],
)
def test_a_service_is_judged_alone_by_latency_and_in_a_crowd_by_rate(
    clients: int, rate: float, seconds: float, missed: list[str]
) -> None:
    found = rows(clients, [(Sent(rate, [seconds] * 3, 0.001, 0.02), ALONE)] * 3)
    assert [row.what for row in found if not row.holds] == missed


@pytest.mark.slow
def test_a_service_is_timed_to_its_end(
    tmp_path: Path,
    learned: tuple[Path, MoLEFlow],
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = settings_for(tmp_path, learned[0]).model
    words = [run, str(data_root / "b" / "test"), "--requests=64", "--long=64"]
    assert run_script(serve.main, monkeypatch, *words) in (0, 1)  # times are the machine's
    found = last_rows(capsys)
    assert len(found) == 2 + 3 * 5
    assert found["64 clients, processor time of an image"]["value"] > 0
    assert found["memory gained"]["holds"]
