"""Peak of a process' anonymous memory: what cannot be dropped and read again."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

STATUS = Path("/proc/self/status")
EVERY = 0.01  # seconds


def anonymous_mb() -> float:
    """Anonymous resident memory of this process (RssAnon), in MB."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{STATUS} tells no RssAnon: this needs Linux")


class Peak:
    """Watches the anonymous memory while a block runs.

    Attributes:
        start_mb: Memory when the block began.
        peak_mb: The most that was seen.
    """

    def __enter__(self) -> Peak:
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

    @property
    def grown_mb(self) -> float:
        """How much more it was at its peak than when the block began."""
        return self.peak_mb - self.start_mb

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            self.peak_mb = max(self.peak_mb, anonymous_mb())
