"""Numbers for Prometheus."""

from pathlib import Path

import pytest

from moleflow_pl.service.metrics import SEVERAL, Metrics, forget
from tests.helpers.service import an_inspection


def test_decisions_count_by_product_and_label() -> None:
    metrics = Metrics()
    for label in ("normal", "normal", "anomalous", None):
        metrics.count(an_inspection(product='a"b', label=label))
    text = metrics.text().decode()
    assert 'moleflow_decisions_total{label="normal",product="a\\"b",source="http"} 2.0' in text
    assert 'label="None"' in text
    assert "moleflow_inspection_seconds_count 4.0" in text


def test_two_services_in_a_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.count(an_inspection())
    assert "moleflow_inspection_seconds_count 0.0" in second.text().decode()


def test_drift_of_a_chart_that_restarts_is_steady() -> None:
    metrics = Metrics()
    metrics.set_drifts({"a": "drift", "b": "warning"})
    assert 'moleflow_drift{product="a"} 2.0' in metrics.text().decode()
    metrics.set_drifts({"b": "warning"})
    text = metrics.text().decode()
    assert 'moleflow_drift{product="a"} 0.0' in text
    assert 'moleflow_drift{product="b"} 1.0' in text


def test_queue_of_a_process_that_ended_is_forgotten_and_its_counts_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SEVERAL, str(tmp_path))
    kinds = ("counter", "histogram", "gauge_livesum", "gauge_livemax")
    for process in (1, 2):
        for kind in kinds:
            (tmp_path / f"{kind}_{process}.db").touch()
    forget(1)
    left = {path.stem for path in tmp_path.iterdir()}
    assert left == {"counter_1", "histogram_1", *(f"{kind}_2" for kind in kinds)}
