"""A sequential test of whether numbers still follow the distribution of the calibration images.

The test assumes no distribution, and allows for the size of the calibration set: each number is
ranked among all numbers before it, calibration images included. Without a change these ranks are
independent and uniform, however few the calibration images are (conformal p-values with random
tie-breaking). Bets against uniformity multiply their stakes after a change; a losing bet restarts
at 1. Over n numbers without a change, the stakes exceed c with a probability of at most n / c, and
on average not before c numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

import numpy as np

FIRST = 30  # numbers that serve as the reference without calibration images
BINS = 512  # numbers in the same bin count as equal
BIN_SHARE = 1 / 32  # width of a bin, as a share of the reference's middle half
SHARPNESS = np.array([1.4, 2.0, 4.0, 10.0, 30.0])  # b of bets on a rank's density b (1 - x)^(b - 1)
# bets on each direction; the last one bets that all numbers since its start exceed all before it
BETS = len(SHARPNESS) + 1
FLOOR = 0.05  # share of a stake that is not bet, so that one odd image does not lose all of it

Direction = Literal["risen", "fallen", "spread"]
DIRECTIONS: tuple[Direction, ...] = ("risen", "fallen", "spread")


class ChangeTest:
    """A change test of one series of numbers; its state is plain numbers that can be saved.

    Args:
        reference: Numbers of the calibration images, in any order; if empty, the first numbers of
            the series serve as the reference.
        directions: Changes to look for: the numbers have risen, fallen, or vary more.

    Attributes:
        seen: Count of tested numbers.
        evidence: Evidence for a change in nats, the logarithm of the mean stake.

    References: Vovk, Nouretdinov & Gammerman 2003, "Testing exchangeability on-line"; Volkhonskiy
    et al. 2017, "Inductive conformal martingales for change-point detection", arXiv:1706.03415;
    Shin, Ramdas & Rinaldo 2024, "E-detectors", arXiv:2203.03532, for the rate of false alarms.

    Example:
        >>> test = ChangeTest(range(30))
        >>> evidence = [test.add(1000 + i, number=i) for i in range(20)]
        >>> bool(evidence[-1] > np.log(1e5)), test.change
        (True, ('risen', 0))
    """

    def __init__(
        self, reference: Sequence[float] = (), directions: Sequence[Direction] = DIRECTIONS
    ) -> None:
        self.directions = list(directions)
        self.seen, self.evidence = 0, 0.0
        self._first: list[float] = []  # collected until they suffice as a reference
        self._low, self._width = 0.0, 0.0  # lower edge of the first bin, and width of each
        self._counts: list[int] = []  # numbers so far in each bin, calibration images included
        self._total = 0  # sum of the counts
        # logarithms of the stakes, and the number of the image at which each began to grow
        self._stakes = np.zeros((len(self.directions), BETS))
        self._since = np.zeros(self._stakes.shape, dtype=np.int64)
        self._lasted = np.zeros((len(self.directions), 1))  # numbers since the last bet began
        if len(reference):
            self._refer(reference)

    def state(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "directions": list(self.directions), "seen": self.seen, "first": list(self._first),
            "low": self._low, "width": self._width, "counts": list(self._counts),
            "stakes": self._stakes.tolist(), "since": self._since.tolist(),
            "lasted": self._lasted.tolist(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ChangeTest:
        """Restore a test from its `state`; it continues with equal results."""
        test = cls(directions=state["directions"])
        test.seen, test._first = state["seen"], list(state["first"])
        test._low, test._width = state["low"], state["width"]
        test._counts = list(state["counts"])
        test._total = sum(test._counts)
        test._stakes, test._since = np.array(state["stakes"]), np.array(state["since"])
        test._lasted = np.array(state["lasted"])
        test.evidence = test._mean_stake()
        return test

    def add(self, value: float, number: int) -> float:
        """Test a number.

        Args:
            value: The number, finite.
            number: Position of its image in the series.

        Returns:
            The evidence for a change.
        """
        if not self._counts:
            self._first.append(value)
            if len(self._first) == FIRST:
                self._refer(self._first)
                self._first = []
            return 0.0
        place = self._bin(value)
        above, equal = self._total - sum(self._counts[: place + 1]), self._counts[place]
        # seeded by the position alone, so that a restored test continues with equal results
        share = Random(self.seen).random()
        rank = (above + share * (equal + 1)) / (self._total + 1)
        self._counts[place] += 1
        self._total += 1
        self.seen += 1
        self._bet(rank, number)
        self.evidence = self._mean_stake()
        return self.evidence

    @property
    def change(self) -> tuple[Direction, int]:
        """The direction of the highest stake, and the image at which it began to grow."""
        best = int(self._stakes.argmax())
        return self.directions[best // BETS], int(self._since.flat[best])

    def _refer(self, reference: Sequence[float]) -> None:
        """Choose the bins from the reference, and fill them."""
        low, middle, high = np.quantile(np.asarray(reference, dtype=np.float64), [0.25, 0.5, 0.75])
        # equal numbers need a width too, so that a different number falls into another bin
        least = max(abs(float(middle)) * 1e-6, 1e-12)
        self._width = max(float(high - low) * BIN_SHARE, least)
        self._low = float(middle) - self._width * BINS / 2
        self._counts = [0] * BINS
        for value in reference:
            self._counts[self._bin(float(value))] += 1
        self._total = len(reference)

    def _mean_stake(self) -> float:
        """Logarithm of the mean of the stakes."""
        highest = self._stakes.max()
        return float(highest + np.log(np.exp(self._stakes - highest).mean()))

    def _bin(self, value: float) -> int:
        return int(min(max((value - self._low) / self._width, 0.0), BINS - 1.0))

    def _bet(self, rank: float, number: int) -> None:
        """Update all stakes by a rank in [0, 1], the share of higher numbers."""
        by_direction = {"risen": rank, "fallen": 1 - rank, "spread": 2 * min(rank, 1 - rank)}
        ranks = np.array([[by_direction[direction]] for direction in self.directions])
        self._since[self._stakes <= 0] = number  # a lost bet restarts
        self._lasted[self._stakes[:, -1:] <= 0] = 0
        odds = SHARPNESS * (1 - ranks) ** (SHARPNESS - 1)
        self._lasted += 1
        share = self._lasted / self._total  # of the numbers so far, this one included
        odds = np.hstack([odds, (ranks <= share) / share])
        self._stakes = self._stakes.clip(min=0) + np.log(FLOOR + (1 - FLOOR) * odds)
