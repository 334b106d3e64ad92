"""Times `moleflow serve` against the same `Predictor` in a loop.

    python -m benchmarks.serve runs/demo IMAGES

Starts the service in a separate process and sends it the images of a folder with 1, 8 and 64
concurrent clients, to measure throughput and the 50, 95 and 99 % quantiles of the latency. The loop
runs in another fresh process: one image at a time for the latency, batches for the throughput. The
clients are threads on open connections and share the machine with the service: their processor time
is printed beside that of the service and of the loop. Also measures the start-up time relative to
loading the model, and memory over many requests. Prints a table, and finally a line of JSON; exits
with 1 if a figure misses its limit.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
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
many, cpu = files * 3, time.process_time()
rate = len(many) / timed(many)
cpu = (time.process_time() - cpu) / len(many)
print(json.dumps({"load": loaded, "single": single, "batch": rate, "cpu": cpu}))
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
    def cpu_seconds(self) -> float:
        """Processor time that it has taken, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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


@dataclass(frozen=True)
class Sent:
    """What some clients found.

    Attributes:
        rate: Images a second.
        seconds: Of each request.
        cpu: Processor time of the clients for an image, in seconds.
        service_cpu: That of the service.
    """

    rate: float
    seconds: Sequence[float]
    cpu: float
    service_cpu: float


def send(service: Served, contents: Sequence[bytes], clients: int, requests: int) -> Sent:
    """Send images by some clients at once, each on a connection of its own."""
    left, lock = iter(islice(cycle(contents), requests)), threading.Lock()
    place = service.url.removeprefix("http://")

    def client(_: int) -> list[float]:
        seconds: list[float] = []
        connection = http.client.HTTPConnection(place, timeout=60)
        while True:
            with lock:
                content = next(left, None)
            if content is None:
                connection.close()
                return seconds
            began = time.perf_counter()
            connection.request("POST", "/v1/inspect", content)
            answer = connection.getresponse()
            body = answer.read()
            seconds.append(time.perf_counter() - began)
            if answer.status != http.client.OK:
                raise OSError(f"{answer.status}: {body.decode()}")

    began, own, its = time.perf_counter(), time.process_time(), service.cpu_seconds
    with ThreadPoolExecutor(clients) as pool:
        latencies = [s for part in pool.map(client, range(clients)) for s in part]
    rate = requests / (time.perf_counter() - began)
    own, its = time.process_time() - own, service.cpu_seconds - its
    return Sent(rate, latencies, own / requests, its / requests)


def rows(clients: int, sent: Sent, alone: dict[str, float]) -> list[Row]:
    """The figures of a number of clients, with limits from those of the loop."""
    most = alone["single"] * 1000 + MOST_EXTRA_MS if clients == 1 else None
    least = LEAST_SHARE if clients == max(CLIENTS) else None
    name = f"{clients} client{'s' * (clients > 1)}"
    times = np.percentile(np.array(sent.seconds) * 1000, PERCENTILES)
    latencies = [
        Row(f"{name}, p{p}", float(value), "ms", most=most if p == PERCENTILES[0] else None)
        for p, value in zip(PERCENTILES, times, strict=True)
    ]
    told = f"{sent.rate:.1f} images/s, {alone['batch']:.1f} in a loop"
    share = Row(
        f"{name}, rate / that of batches", sent.rate / alone["batch"], "x", least, None, told
    )
    told = f"loop {alone['cpu'] * 1000:.1f} ms; the clients beside it {sent.cpu * 1000:.1f} ms"
    cpu = Row(f"{name}, processor time of an image", sent.service_cpu * 1000, "ms", note=told)
    return [share, *latencies, cpu]


def time_service(report: Report, load: Load) -> None:
    """Measure everything."""
    alone, contents = loop(load), [path.read_bytes() for path in load.files]
    with served(load.run) as service:
        most = alone["load"] + MOST_EXTRA_START
        report.add(
            Row("start", service.seconds, "s", most=most, note=f"load {alone['load']:.1f} s")
        )
        for clients in CLIENTS:
            send(service, contents, clients, max(2 * clients, load.requests // 4))  # warm
            for row in rows(clients, send(service, contents, clients, load.requests), alone):
                report.add(row)
        before = service.memory_mb
        send(service, contents, 8, load.long)
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
