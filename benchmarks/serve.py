"""Times `moleflow serve` against the same `Predictor` in a loop.

    python -m benchmarks.serve runs/demo IMAGES

Starts the service in a separate process and sends it the images of a folder with 1, 8 and 64
concurrent clients, to measure throughput and the 50, 95 and 99 % quantiles of the latency. The loop
runs in another fresh process: one image at a time for the latency, batches for the throughput. Also
measures the start-up time relative to loading the model, and memory over many requests. Prints a
table, and finally a line of JSON; exits with 1 if a figure misses its limit.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import httpx
import numpy as np

from benchmarks.harness.report import Report, Row, benchmark

CLIENTS = (1, 8, 64)
PERCENTILES = (50, 95, 99)
LEAST_SHARE, MOST_EXTRA_MS, MOST_EXTRA_START, MOST_GROWTH_MB = 0.95, 5, 1, 50
START_SECONDS = 300
LOOP = """\
import json, sys, time
from pathlib import Path
began = time.perf_counter()
from moleflow_pl import Predictor
predictor = Predictor.load(sys.argv[1])
loaded = time.perf_counter() - began
files = [Path(path).read_bytes() for path in json.loads(sys.argv[2])]
def timed(images):
    began = time.perf_counter()
    predictor(images)
    return time.perf_counter() - began
timed(files[:16])
single = sorted(timed(one) for one in files)[len(files) // 2]
print(json.dumps({"load": loaded, "single": single, "batch": len(files) / timed(files)}))
"""


@dataclass(frozen=True)
class Load:
    """The requests to send.

    Attributes:
        run: The run folder.
        files: The images.
        requests: Number of requests, for each number of clients.
        long: Number of requests for the memory.
    """

    run: Path
    files: Sequence[Path]
    requests: int
    long: int


@dataclass(frozen=True)
class Served:
    """A service in a process of its own.

    Attributes:
        url: Where it answers.
        pid: Its process.
        seconds: From the start of the process to its first answer.
    """

    url: str
    pid: int
    seconds: float

    @property
    def memory_mb(self) -> float:
        """Its anonymous memory, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024


@contextmanager
def served(run: Path) -> Iterator[Served]:
    """A service for a run, with a record of its own."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--database={folder}/line.sqlite", "--port=0", "--rate=100000", "--no-images"]
        command = [sys.executable, "-m", "moleflow_pl.cli.main", "serve", str(run), *options]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if line.startswith("serving"))
            seconds = time.perf_counter() - began
            yield Served(re.findall(r"http://\S+", line)[0], process.pid, seconds)
        finally:
            process.terminate()
            process.wait()


def loop(load: Load) -> dict[str, float]:
    """Seconds of loading and of an image, and images a second in batches, without a service."""
    words = [str(load.run), json.dumps([str(path) for path in load.files])]
    result = subprocess.run(
        [sys.executable, "-c", LOOP, *words], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def send(
    url: str, contents: Sequence[bytes], clients: int, requests: int
) -> tuple[float, list[float]]:
    """Send images by some clients at once; images a second, and the seconds of each request."""
    left, lock = iter(islice(cycle(contents), requests)), threading.Lock()

    def client(_: int) -> list[float]:
        seconds: list[float] = []
        with httpx.Client(timeout=60) as connection:
            while True:
                with lock:
                    content = next(left, None)
                if content is None:
                    return seconds
                began = time.perf_counter()
                connection.post(f"{url}/v1/inspect", content=content).raise_for_status()
                seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        latencies = [s for part in pool.map(client, range(clients)) for s in part]
    return requests / (time.perf_counter() - began), latencies


def rows(clients: int, rate: float, seconds: Sequence[float], alone: dict[str, float]) -> list[Row]:
    """The figures of a number of clients, with limits from those of the loop."""
    most = alone["single"] * 1000 + MOST_EXTRA_MS if clients == 1 else None
    least = LEAST_SHARE if clients == max(CLIENTS) else None
    name = f"{clients} client{'s' * (clients > 1)}"
    times = np.percentile(np.array(seconds) * 1000, PERCENTILES)
    latencies = [
        Row(f"{name}, p{p}", float(value), "ms", most=most if p == PERCENTILES[0] else None)
        for p, value in zip(PERCENTILES, times, strict=True)
    ]
    note = f"{rate:.1f} images/s, {alone['batch']:.1f} in a loop"
    return [Row(f"{name}, rate / that of batches", rate / alone["batch"], "x", least, None, note),
            *latencies]  # fmt: skip


def time_service(report: Report, load: Load) -> None:
    """Measure everything."""
    alone, contents = loop(load), [path.read_bytes() for path in load.files]
    with served(load.run) as service:
        most = alone["load"] + MOST_EXTRA_START
        report.add(
            Row("start", service.seconds, "s", most=most, note=f"load {alone['load']:.1f} s")
        )
        send(service.url, contents, 8, max(16, load.requests // 10))  # warm
        for clients in CLIENTS:
            for row in rows(clients, *send(service.url, contents, clients, load.requests), alone):
                report.add(row)
        before = service.memory_mb
        send(service.url, contents, 8, load.long)
        grown = service.memory_mb - before
        note = f"over {load.long} requests, {before:.0f} MiB before"
        report.add(Row("memory gained", grown, "MiB", most=MOST_GROWTH_MB, note=note))


def main() -> int:
    """Run the benchmark; return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a fit")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of images")
    parser.add_argument("--requests", type=int, default=640, help="for each number of clients")
    parser.add_argument("--long", type=int, default=20_000, help="requests for the memory")
    options = parser.parse_args()
    files = sorted(path for path in options.images.rglob("*") if path.is_file())[:64]
    load = Load(options.run, files, options.requests, options.long)
    return benchmark("serve", lambda report: time_service(report, load))


if __name__ == "__main__":
    sys.exit(main())
