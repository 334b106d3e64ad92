"""Times `moleflow serve` against the same `Predictor` in a loop.

    python -m benchmarks.serve runs/demo IMAGES

Starts the service in a separate process and sends it the images of a folder with 1, 8 and 64
concurrent clients, to measure throughput and the 50, 95 and 99 % quantiles of the latency. The loop
takes turns with them in another process, with memory kept as in the service: one image at a time
for the latency, batches for the throughput. The clients are threads on open connections and share
the machine with the service: their processor time is printed beside that of the service and of the
loop. Also measures the start-up time relative to loading the model, and memory over many
requests. Prints a table, and finally a line of JSON; exits with 1 if a figure misses its limit.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
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

from benchmarks.harness.command_line import script_parser
from benchmarks.harness.report import Report, Row, benchmark
from moleflow_pl._internal.allocator import ENVIRONMENT
from moleflow_pl._internal.openmp import TURNS, VARIABLE

CLIENTS = (1, 8, 64)
PERCENTILES = (50, 95, 99)
LEAST_SHARE, MOST_EXTRA_MS, MOST_EXTRA_START, MOST_GROWTH_MB = 0.95, 5, 1, 50
START_SECONDS = 300
ROUNDS = 3
LOOP = """\
import json, sys, time
from pathlib import Path
began = time.perf_counter()
from moleflow_pl import Predictor
predictor = Predictor.load(sys.argv[1])
print(time.perf_counter() - began, flush=True)
files = [Path(path).read_bytes() for path in json.loads(sys.argv[2])]
def timed(images):
    began = time.perf_counter()
    predictor(images)
    return time.perf_counter() - began
timed(files[:16])
for _ in sys.stdin:
    single = sorted(timed(one) for one in files)[len(files) // 2]
    many, cpu = files * 3, time.process_time()
    rate = len(many) / timed(many)
    cpu = (time.process_time() - cpu) / len(many)
    print(json.dumps({"single": single, "batch": rate, "cpu": cpu}), flush=True)
"""


@dataclass(frozen=True)
class Load:
    """The requests to send.

    Attributes:
        run: The run folder.
        files: The images.
        requests: Number of requests, for each number of clients and round.
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


class Loop:
    """A predictor in a process of its own, which inspects when it is asked to.

    Attributes:
        load_seconds: From its imports to a loaded model.
    """

    def __init__(self, load: Load) -> None:
        words = [str(load.run), json.dumps([str(path) for path in load.files])]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOOP, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, **ENVIRONMENT, VARIABLE: TURNS},
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.load_seconds = float(self._out.readline())

    def measure(self) -> dict[str, float]:
        """Seconds of an image, and images a second and processor time of one in batches."""
        print(file=self._in, flush=True)
        return json.loads(self._out.readline())

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()


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


def rows(clients: int, rounds: Sequence[tuple[Sent, dict[str, float]]]) -> list[Row]:
    """The figures of a number of clients, with limits from those of the loop in the same rounds."""

    def of_loop(name: str) -> float:
        return statistics.median(alone[name] for _, alone in rounds)

    most = of_loop("single") * 1000 + MOST_EXTRA_MS if clients == 1 else None
    least = LEAST_SHARE if clients == max(CLIENTS) else None
    name = f"{clients} client{'s' * (clients > 1)}"
    seconds = [second for sent, _ in rounds for second in sent.seconds]
    times = np.percentile(np.array(seconds) * 1000, PERCENTILES)
    latencies = [
        Row(f"{name}, p{p}", float(value), "ms", most=most if p == PERCENTILES[0] else None)
        for p, value in zip(PERCENTILES, times, strict=True)
    ]
    rate = statistics.median(sent.rate for sent, _ in rounds)
    note = f"{rate:.1f} images/s, {of_loop('batch'):.1f} in a loop"
    share = statistics.median(sent.rate / alone["batch"] for sent, alone in rounds)
    shared = Row(f"{name}, rate / that of batches", share, "x", least, None, note)
    its = statistics.median(sent.service_cpu for sent, _ in rounds)
    own = statistics.median(sent.cpu for sent, _ in rounds)
    note = f"loop {of_loop('cpu') * 1000:.1f} ms; the clients beside it {own * 1000:.1f} ms"
    return [
        shared,
        *latencies,
        Row(f"{name}, processor time of an image", its * 1000, "ms", note=note),
    ]


def time_start(report: Report, load: Load) -> None:
    """The start of a service, beyond that of a program that loads the same model."""
    starts: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        with Loop(load) as loop:
            pass
        with served(load.run) as service:
            starts.append((service.seconds, loop.load_seconds))
    own, alone = (statistics.median(seconds) for seconds in zip(*starts, strict=True))
    beyond = statistics.median(start - loading for start, loading in starts)
    note = f"start {own:.2f} s, imports and loading alone {alone:.2f} s"
    report.add(Row("start beyond loading", beyond, "s", most=MOST_EXTRA_START, note=note))


def time_service(report: Report, load: Load) -> None:
    """Measure everything."""
    time_start(report, load)
    contents = [path.read_bytes() for path in load.files]
    with Loop(load) as loop, served(load.run) as service:
        for clients in CLIENTS:
            send(service, contents, clients, max(2 * clients, load.requests // 4))  # warm
            rounds = [
                (send(service, contents, clients, load.requests), loop.measure())
                for _ in range(ROUNDS)
            ]
            for row in rows(clients, rounds):
                report.add(row)
        before = service.memory_mb
        send(service, contents, 8, load.long)
        grown = service.memory_mb - before
        note = f"over {load.long} requests, {before:.0f} MiB before"
        report.add(Row("memory gained", grown, "MiB", most=MOST_GROWTH_MB, note=note))


def main() -> int:
    """Run the benchmark; return its exit code."""
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a fit")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of images")
    parser.add_argument(
        "--requests", type=int, default=320, help="for each number of clients and round"
    )
    parser.add_argument("--long", type=int, default=20_000, help="requests for the memory")
    options = parser.parse_args()
    files = sorted(path for path in options.images.rglob("*") if path.is_file())[:64]
    load = Load(options.run, files, options.requests, options.long)
    return benchmark("serve", lambda report: time_service(report, load))


if __name__ == "__main__":
    sys.exit(main())
