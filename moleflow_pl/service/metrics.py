"""Metrics for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from moleflow_pl.inference.drift import Drift
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
        self.registry = CollectorRegistry()
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

    def tell_drift(self, drift: Drift) -> None:
        """Set the state of a product's chart."""
        self.drift.labels(drift.product).set(STATES.index(drift.state))

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
