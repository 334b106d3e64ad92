"""Drift: whether a line's images still look like the calibration images of their product.

Each product has a control chart of four channels: the score of its ordinary images, the router
distance, the novelty ratio, and brightness. Each channel runs a
`moleflow_pl.tasks.change.ChangeTest`; the channels share the rate of false alarms evenly (a union
bound). A change of light or focus often makes every image anomalous or unknown, so all channels but
the score's use images of any label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from moleflow_pl._internal.hashing import content_hash
from moleflow_pl._internal.validation import require_number
from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.change import DIRECTIONS, ChangeTest, Direction

IMAGES_PER_FALSE_ALARM = 1_000_000  # steady images of a product, on average at least
EARLIER = 100  # warnings are this many times as frequent as drift
MOST_IMAGES = 1e12
# directions that each channel tests; images that become more ordinary are not drift
CHANNELS: dict[str, tuple[Direction, ...]] = {
    "score": DIRECTIONS,
    "router_distance": ("risen",),
    "novelty_ratio": ("risen",),
    "brightness": DIRECTIONS,
}
NAMES = {"score": "the score of ordinary images", "router_distance": "the router's distance"}
VERBS = {"risen": "has risen", "fallen": "has fallen", "spread": "varies more"}

State = Literal["steady", "warning", "drift"]


class Decided(Protocol):
    """A decision as a monitor needs it: a `Prediction`, or a database row."""

    @property
    def product(self) -> str:
        """The product."""

    @property
    def label(self) -> str | None:
        """The decision."""


@dataclass(frozen=True)
class Change:
    """A change in one channel.

    Attributes:
        channel: `score`, `router_distance`, `novelty_ratio` or `brightness`.
        direction: `risen`, `fallen`, or `spread` where it varies more.
        since: The image of this product at which it probably began, counted from 1.
        images: The image at which it was detected.
    """

    channel: str
    direction: Direction
    since: int
    images: int

    def __str__(self) -> str:
        name = NAMES.get(self.channel, self.channel.replace("_", " "))
        return f"{name} {VERBS[self.direction]} since image {self.since}"


@dataclass(frozen=True)
class Drift:
    """Whether a product's images have changed.

    Attributes:
        product: The product.
        state: `steady`, `warning`, or `drift`, which lasts until the chart is restarted.
        images: Number of images so far.
        changes: The changes, unless the state is steady.
        evidence: Evidence of each channel, as a share of that for drift; may be negative.
    """

    product: str
    state: State = "steady"
    images: int = 0
    changes: list[Change] = field(default_factory=list)
    evidence: dict[str, float] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """The changes in words."""
        return [str(change) for change in self.changes]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "reasons": self.reasons}

    def __str__(self) -> str:
        reasons = f": {', '.join(self.reasons)}" if self.changes else ""
        return f"{self.product}: {self.state}{reasons}"


class Chart:
    """The control chart of one product.

    Args:
        product: The product.
        calibration: The product's calibration, if it has one.
        threshold: Score threshold; calibration images above it are not ordinary.
    """

    def __init__(
        self, product: str, calibration: Calibration | None, threshold: float = math.inf
    ) -> None:
        self.product, self.images = product, 0
        self.reported: dict[str, Change] = {}  # drift, by channel
        self._reference = {} if calibration is None else reference_of(calibration, threshold)
        self.tests = {channel: self._test(channel) for channel in CHANNELS}

    @cached_property
    def key(self) -> str:
        """A hash of the calibration that the chart uses as its reference."""
        return content_hash(self._reference)

    def state(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "key": self.key,
            "images": self.images,
            "reported": [asdict(change) for change in self.reported.values()],
            "tests": {channel: test.state() for channel, test in self.tests.items()},
        }

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Restore the `state` of a chart with the same reference."""
        self.images = state["images"]
        self.reported = {change["channel"]: Change(**change) for change in state["reported"]}
        self.tests = {
            channel: ChangeTest.from_state(test) for channel, test in state["tests"].items()
        }

    def forget(self, channel: str) -> None:
        """Restart a channel."""
        self.tests[channel] = self._test(channel)
        self.reported.pop(channel, None)

    def add(self, prediction: Decided, least: float) -> None:
        """Add an image; evidence of at least `least` nats is drift."""
        self.images += 1
        for channel, test in self.tests.items():
            value = getattr(prediction, channel)
            if channel == "score" and prediction.label not in ("normal", None):
                continue
            if value is None or not math.isfinite(value):
                continue
            if test.add(value, self.images) >= least and channel not in self.reported:
                self.reported[channel] = self._change(channel)

    def drift(self, least: float, warning: float) -> Drift:
        """The result of the chart, given the evidence that counts as drift and as a warning."""
        evidence = {channel: test.evidence for channel, test in self.tests.items()}
        state: State = "drift" if self.reported else "steady"
        changes = list(self.reported.values())
        if not self.reported:
            changes = [self._change(name) for name, nats in evidence.items() if nats >= warning]
            state = "warning" if changes else "steady"
        shares = {channel: nats / least for channel, nats in evidence.items()}
        return Drift(self.product, state, self.images, changes, shares)

    def _test(self, channel: str) -> ChangeTest:
        return ChangeTest(self._reference.get(channel, ()), CHANNELS[channel])

    def _change(self, channel: str) -> Change:
        direction, since = self.tests[channel].change
        return Change(channel, direction, since, self.images)


def reference_of(calibration: Calibration, threshold: float) -> dict[str, list[float]]:
    """Numbers of a product's calibration images, by channel.

    Router distances are not included: they change with every added product, since all products
    share the covariance. Their reference is the first images of the line.
    """
    limit = calibration.novelty_limit
    reference = {
        "score": [score for score in calibration.scores if score <= threshold],
        "novelty_ratio": [value / limit for value in calibration.novelty_distances if limit],
        "brightness": calibration.brightness,
    }
    return {
        channel: [value for value in values if math.isfinite(value)]
        for channel, values in reference.items()
    }


class DriftMonitor:
    """Watches a stream of predictions for drift of each product.

    For a steady product, whose images are drawn independently like its calibration images, drift is
    reported at most once in `images_per_false_alarm` images on average; among n images, with a
    probability of at most n / images_per_false_alarm. Warnings are 100 times as frequent.

    Args:
        decisions: The decision maker of the predictions.
        images_per_false_alarm: Steady images of a product for each false alarm.
        state: `state` of an earlier monitor to continue. A product with a new calibration starts a
            new chart, and router distances restart if the model's products have changed.

    Raises:
        ConfigError: a number is out of range.

    Example:
        `monitor.add(prediction).state`
    """

    def __init__(
        self,
        decisions: DecisionMaker,
        images_per_false_alarm: float = IMAGES_PER_FALSE_ALARM,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        require_number("images_per_false_alarm", images_per_false_alarm, EARLIER, MOST_IMAGES)
        self.decisions = decisions
        self._drift = math.log(images_per_false_alarm * len(CHANNELS))
        self._warning = self._drift - math.log(EARLIER)
        self._charts: dict[str, Chart] = {}
        if state is not None:
            self._go_on(state)

    def add(self, prediction: Decided) -> Drift:
        """Add the prediction of the next image, and return the state of its product."""
        chart = self._chart(prediction.product)
        chart.add(prediction, self._drift)
        return chart.drift(self._drift, self._warning)

    def watch(self, predictions: Iterable[Decided]) -> list[Drift]:
        """Add several predictions, and return the states of all products."""
        for prediction in predictions:
            self._chart(prediction.product).add(prediction, self._drift)
        return self.drifts

    @property
    def drifts(self) -> list[Drift]:
        """The state of each product with images."""
        return [chart.drift(self._drift, self._warning) for chart in self._charts.values()]

    def restart(self, product: str) -> None:
        """Restart a product's chart after the cause of a drift is fixed."""
        self._charts.pop(product, None)

    def state(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for a file or a database."""
        charts = {product: chart.state() for product, chart in self._charts.items()}
        return {"products": self._products, "charts": charts}

    @property
    def _products(self) -> list[str]:
        return [self.decisions.names[task] for task in self.decisions.learned]

    def _go_on(self, state: Mapping[str, Any]) -> None:
        for product in state["charts"].keys() & set(self._products):
            chart, earlier = self._chart(product), state["charts"][product]
            if chart.key == earlier["key"]:
                chart.go_on(earlier)
                if state["products"] != self._products:
                    chart.forget("router_distance")

    def _chart(self, product: str) -> Chart:
        if product not in self._charts:
            decisions, task = self.decisions, self.decisions.names.index(product)
            calibration = decisions.calibrations.get(task)
            threshold = math.inf if calibration is None else decisions.limits[task].score
            self._charts[product] = Chart(product, calibration, threshold)
        return self._charts[product]
