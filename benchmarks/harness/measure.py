"""Time of alternatives in alternating runs, and memory of this process or of a fresh one.

For `benchmarks.speed`, `memory`, `scaling` and `peers`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

ROUNDS = 5
STATUS = Path("/proc/self/status")
INTERVAL = 0.01  # seconds between two memory samples


def alternate(
    sides: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS, warm: bool = True
) -> dict[str, float]:
    """Median seconds of each side. Each round runs every side once, after one warm-up run.

    Example:
        >>> sorted(alternate({"a": lambda: None, "b": lambda: None}, rounds=1))
        ['a', 'b']
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    if warm:
        for side in sides.values():
            side()
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def anonymous_mb() -> float:
    """Anonymous resident memory of this process (RssAnon) in MiB: what the system cannot drop.

    Raises:
        RuntimeError: The system is not Linux.
    """
    return status_mb("RssAnon")


def resident_mb() -> float:
    """All resident memory of this process (VmRSS) in MiB, with what it has mapped of files."""
    return status_mb("VmRSS")


def status_mb(field: str) -> float:
    """A field of this process's status in MiB.

    Raises:
        RuntimeError: The system is not Linux.
    """
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{STATUS} has no {field}: memory is measured on Linux only")


class PeakMemory:
    """Samples the anonymous memory while a block runs.

    Attributes:
        start_mb: Memory when the block began.
        peak_mb: Largest sample.
    """

    def __enter__(self) -> PeakMemory:
        self.start_mb = self.peak_mb = anonymous_mb()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    @property
    def grown_mb(self) -> float:
        """Growth from the beginning of the block to the peak."""
        return self.peak_mb - self.start_mb

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._sample()

    def _sample(self) -> None:
        self.peak_mb = max(self.peak_mb, anonymous_mb())


def in_fresh_process(
    function: Callable[..., float],
    environment: Mapping[str, str] | None = None,
    **arguments: object,
) -> float:
    """The number that a module's function returns in a new Python process.

    Its peak memory is then independent of what this process did before.

    Args:
        function: A function of a module that can be imported.
        environment: The variables of the process; by default those of this one.
        arguments: Plain values, passed as their `repr`.
    """
    module = sys.modules[function.__module__]
    # a module run by `python -m` is `__main__`; its spec knows the name to import
    name = module.__spec__.name if module.__spec__ else function.__module__
    code = (
        f"from {name} import {function.__name__} as measured; "
        f"print(float(measured(**{arguments!r})))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout.split()[-1])
