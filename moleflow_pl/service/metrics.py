"""Metrics for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from moleflow_pl.service.database import Inspection
from moleflow_pl.service.drift import STATES

SEVERAL = "PROMETHEUS_MULTIPROC_DIR"  # set where several processes count together
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of a service.

    Attributes:
        decisions: By product and label.
        seconds: From the arrival of an image to its decision.
        refused: Requests that were not inspected, by reason.
        waiting: Images in the queue.
        drift: State of each product's chart.
    """

    def __init__(self) -> None:
        self.registry, self._charted = CollectorRegistry(), set[str]()
        own = self.registry
        self.decisions = Counter(
            "moleflow_decisions", "inspected images", ["product", "label", "source"], registry=own
        )
        self.seconds = Histogram(
            "moleflow_inspection_seconds", "time of an image", buckets=SECONDS, registry=own
        )
        self.refused = Counter(
            "moleflow_refused", "requests that were refused", ["reason"], registry=own
        )
        self.waiting = Gauge(
            "moleflow_waiting_images", "images that wait", multiprocess_mode="livesum", registry=own
        )
        self.taken = Gauge(
            "moleflow_taken_images",
            "images not answered yet",
            multiprocess_mode="livesum",
            registry=own,
        )
        self.drift = Gauge(
            "moleflow_drift", "0 steady, 1 warning, 2 drift", ["product"],
            multiprocess_mode="livemax", registry=own,
        )  # fmt: skip

    def set_drifts(self, states: Mapping[str, str]) -> None:
        """Set the states of all charts, by product; a product without a chart is steady."""
        self._charted |= states.keys()
        for product in self._charted:
            self.drift.labels(product).set(STATES.index(states.get(product, "steady")))

    def count(self, inspection: Inspection) -> None:
        """Count an inspection."""
        labels = (inspection.product, str(inspection.label), inspection.source)
        self.decisions.labels(*labels).inc()
        self.seconds.observe(inspection.seconds)

    def text(self) -> bytes:
        """The metrics of all processes, in the format of Prometheus."""
        if SEVERAL not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)


def forget(process: int) -> None:
    """Leave the queue and the drifts of a process that has ended out of the metrics."""
    mark_process_dead(process)
