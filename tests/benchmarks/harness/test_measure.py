import time

import numpy as np

from benchmarks.harness import measure
from benchmarks.harness.measure import PeakMemory, alternate, in_fresh_process

MEGABYTES = 64


def allocate_mb(count: int) -> float:
    """Growth of the memory by a block that is freed before the end."""
    with PeakMemory() as memory:
        block = np.ones((count, 2**20), np.uint8)
        patience = time.monotonic() + 10
        while memory.grown_mb < 0.9 * count and time.monotonic() < patience:
            time.sleep(measure.INTERVAL)
        del block
    return memory.grown_mb


def test_sides_run_in_turn_and_the_slower_one_takes_longer() -> None:
    calls: list[str] = []

    def side(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    seconds = alternate({"a": lambda: side("a", 0), "b": lambda: side("b", 0.02)}, rounds=3)
    assert calls == ["a", "b"] * 4  # one round to warm up
    assert seconds["a"] < seconds["b"] >= 0.02


def test_peak_sees_memory_that_is_freed_again() -> None:
    assert MEGABYTES * 0.9 < allocate_mb(MEGABYTES) < MEGABYTES * 2


def test_fresh_process_calls_the_function_with_its_arguments() -> None:
    assert in_fresh_process(measure.anonymous_mb) < measure.anonymous_mb()
    assert in_fresh_process(max_of, a=2, b=7) == 7


def max_of(a: int, b: int) -> float:
    return float(max(a, b))
