"""Training steps of processes that share the cores, each with a thread of torch for every core.

For `together` of `benchmarks.speed`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from benchmarks.harness.measure import in_fresh_process
from benchmarks.harness.report import Report, Row
from moleflow_pl._internal.openmp import TURNS, VARIABLE

DEFAULT, OURS = "as OpenMP does by default", "as the command does"
OPENMP_TURNS = "300000"  # GNU's default
WAYS = {DEFAULT: {VARIABLE: OPENMP_TURNS}, OURS: {VARIABLE: TURNS}}
STEPS, ROUNDS = 30, 3
MOST_TOGETHER, MOST_ALONE = 3.0, 1.15
VARIABLES = (VARIABLE, "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def step_seconds(steps: int) -> float:
    """Mean seconds of a training step of a small network in this process."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(384, 768), nn.ReLU(), nn.Linear(768, 384))
    optimizer, patches = torch.optim.AdamW(network.parameters()), torch.randn(4096, 384)
    started = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        network(patches).tanh().square().mean().backward()
        optimizer.step()
    return (time.perf_counter() - started) / steps


def seconds_together(processes: int, steps: int, environment: Mapping[str, str]) -> float:
    """Mean seconds of a step in the slowest of several new processes.

    Args:
        processes: How many begin at the same time.
        steps: Steps of each.
        environment: Their variables for OpenMP.
    """
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}

    def seconds(_: int) -> float:
        return in_fresh_process(step_seconds, {**clean, **environment}, steps=steps)

    with ThreadPoolExecutor(processes) as pool:
        return max(pool.map(seconds, range(processes)))


def time_together(report: Report, small: bool = False) -> None:
    """One and two processes on the same cores, by how long a thread waits before it sleeps."""
    steps, rounds = (1, 1) if small else (STEPS, ROUNDS)
    found: dict[tuple[str, int], list[float]] = {(way, n): [] for way in WAYS for n in (1, 2)}
    for _ in range(rounds):
        for way, count in found:
            found[way, count].append(seconds_together(count, steps, WAYS[way]))
    step = {key: statistics.median(seconds) for key, seconds in found.items()}
    for way in WAYS:
        alone, both = step[way, 1], step[way, 2]
        note = f"a step takes {1000 * alone:.0f} ms in one process, {1000 * both:.0f} ms in two"
        most = MOST_TOGETHER if way == OURS else None
        report.add(Row(f"two processes, waiting {way}", both / alone, "x", most=most, note=note))
    ratio = step[OURS, 1] / step[DEFAULT, 1]
    report.add(Row(f"one process, waiting {OURS}", ratio, "x", most=MOST_ALONE))
