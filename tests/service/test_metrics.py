"""Numbers for Prometheus."""

from moleflow_pl.service.metrics import Metrics
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
