"""A service under load: a receiver is down, a model is loaded, a product is learned."""

import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from moleflow_pl.service.database import Database
from moleflow_pl.service.models import publish
from tests.helpers.commands import moleflow
from tests.helpers.hook import web_hook
from tests.helpers.reviewing import images_of, kept_run
from tests.helpers.service import wait_until
from tests.helpers.serving import Server, free_port, serving

CLIENTS = 4
MESSAGES = 1000

pytestmark = pytest.mark.slow


class Load:
    """Clients that ask one after another, until they are stopped.

    Attributes:
        answers: How often each status and model was answered.
    """

    def __init__(self, server: Server, image: Path) -> None:
        self.url, self.content = f"{server.url}/v1/inspect", image.read_bytes()
        self.answers: Counter[tuple[int, str]] = Counter()
        self.stopped = threading.Event()

    def ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self.stopped.is_set():
                answer = client.post(self.url, content=self.content)
                self.answers[answer.status_code, answer.json().get("model", "")] += 1

    @property
    def statuses(self) -> set[int]:
        return {status for status, _ in self.answers}

    @property
    def models(self) -> set[str]:
        return {model for _, model in self.answers}


@contextmanager
def loaded(server: Server, image: Path) -> Iterator[Load]:
    """A service under load within the block; an error of a client is raised."""
    load = Load(server, image)
    with ThreadPoolExecutor(CLIENTS) as pool:
        tasks = [pool.submit(load.ask) for _ in range(CLIENTS)]
        try:
            yield load
        finally:
            load.stopped.set()
    for task in tasks:
        task.result()


def test_a_thousand_messages_of_a_receiver_that_was_down_arrive_once_and_in_order(
    tmp_path: Path, data_root: Path
) -> None:
    run, port = kept_run(tmp_path / "run").parent, free_port()
    with serving(run, f"--sink=webhook:http://127.0.0.1:{port}/line") as server:
        with loaded(server, images_of(data_root, "b", "good")[0]) as load:
            wait_until(lambda: load.answers.total() >= MESSAGES, 200)
        assert load.statuses == {200}
        assert "fails" in httpx.get(f"{server.url}/service/parts").text
        with web_hook(port=port) as hook:
            wait_until(lambda: len(hook.taken) >= load.answers.total(), 200)
    assert [message["id"] for message in hook.taken] == list(range(1, load.answers.total() + 1))


def test_a_model_that_has_to_be_loaded_replaces_another_under_load_and_no_request_fails(
    tmp_path: Path, data_root: Path
) -> None:
    run = kept_run(tmp_path / "run").parent
    other = Path(shutil.copytree(run, tmp_path / "other"))
    moleflow(tmp_path, "calibrate", other, "--false-alarm-rate=0.03")
    with serving(run) as server:
        with loaded(server, images_of(data_root, "b", "good")[0]) as load:
            wait_until(lambda: load.answers.total() > 20, 60)
            version = publish(Database(run / "service" / "line.sqlite"), other, "ann")
            wait_until(lambda: version.digest in load.models, 60)
        assert load.statuses == {200}
        assert len(load.models) == 2


def test_a_product_is_learned_under_load_and_no_request_fails(
    tmp_path: Path, data_root: Path
) -> None:
    run = kept_run(tmp_path / "run").parent
    with serving(run) as server:
        with loaded(server, images_of(data_root, "b", "good")[0]) as load:
            wait_until(lambda: load.answers.total() > 20, 60)
            form = {"name": "c", "folder": str(data_root / "c" / "train" / "good"), "epochs": "1"}
            httpx.post(f"{server.url}/v1/products", data=form, timeout=60).raise_for_status()
            wait_until(lambda: state_of_job(server) in ("learned", "failed"), 300)
            assert state_of_job(server) == "learned"
            wait_until(lambda: len(load.models) == 2, 60)
        assert load.statuses == {200}
        assert products_of(server) == ["01", "b", "c"]


def test_service_killed_while_it_learns_a_product_learns_it_after_its_next_start(
    tmp_path: Path, data_root: Path
) -> None:
    run = kept_run(tmp_path / "run").parent
    with serving(run) as server:
        form = {"name": "c", "folder": str(data_root / "c" / "train" / "good"), "epochs": "20"}
        httpx.post(f"{server.url}/v1/products", data=form, timeout=60).raise_for_status()
        wait_until(lambda: list((run / "service").glob("learning/*/progress.json")), 120)
        learning = (
            f"{run}/service/learning/"  # also in the command line of processes that read images
        )
        assert processes_with(learning)
        server.end(signal.SIGKILL)
        wait_until(lambda: not processes_with(learning), 30)
    with serving(run) as server:
        wait_until(lambda: state_of_job(server) in ("learned", "failed"), 300)
        assert state_of_job(server) == "learned"
        wait_until(lambda: products_of(server) == ["01", "b", "c"], 60)
    assert not list((run / "service" / "learning").iterdir())


def processes_with(word: str) -> list[Path]:
    """The places in /proc of processes with a word in their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word in (place / "cmdline").read_text():
                found.append(place)
    return found


def products_of(server: Server) -> list[str]:
    products = httpx.get(f"{server.url}/v1/products", timeout=60).json()["products"]
    return [product["name"] for product in products]


def state_of_job(server: Server) -> str:
    (job,) = httpx.get(f"{server.url}/v1/products/jobs", timeout=60).json()["jobs"]
    return job["state"]
