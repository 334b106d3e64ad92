"""The server, in processes of its own."""

import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from sqlalchemy import select
from uvicorn.supervisors import Multiprocess

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from moleflow_pl.service import server as module
from moleflow_pl.service.database import Database, Inspection, SeenFile
from moleflow_pl.service.models import publish
from moleflow_pl.service.server import Workers, configure, listening
from moleflow_pl.service.settings import Settings
from tests.helpers.service import count, picture, settings_for, wait_until
from tests.helpers.serving import Server, serving

Learned = tuple[Path, MoLEFlow]


def run_of(where: Path, learned: Learned) -> Path:
    return Path(settings_for(where, learned[0]).model)


def test_the_end_of_an_answer_waits_for_no_receipt() -> None:
    with (
        listening("127.0.0.1", 0) as place,
        socket.create_connection(place.getsockname()),
        place.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*--port"),
            listening("127.0.0.1", port),
        ):
            pass
    with (
        pytest.raises(ConfigError, match="cannot listen at 203.0.113.1:1"),
        listening("203.0.113.1", 1),
    ):
        pass


def test_service_that_ends_before_it_answers_is_not_announced() -> None:
    with listening("127.0.0.1", 0) as place:
        pass
    module.announce(place, Settings("run"))  # raises nothing


def test_process_that_takes_long_to_import_is_not_replaced() -> None:
    assert configure("a:b", Settings("run", workers=2)).timeout_worker_healthcheck >= 60


def test_process_that_was_replaced_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[int] = []
    monkeypatch.setattr(module, "forget", forgotten.append)
    monkeypatch.setattr(Multiprocess, "keep_subprocess_alive", lambda self: None)
    workers = Workers.__new__(Workers)
    for numbers in ((1, 2), (1, 2), (1, 3)):
        workers.processes = [SimpleNamespace(pid=number) for number in numbers]  # type: ignore[misc]
        workers.keep_subprocess_alive()
    assert forgotten == [2]


@pytest.mark.slow
def test_a_service_starts_answers_curl_and_stops_as_asked(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    run = run_of(tmp_path, learned)
    (tmp_path / "a.png").write_bytes(picture(data_root, kind="square"))
    with serving(run) as server:
        command = ["curl", "-sS", "--data-binary", f"@{tmp_path / 'a.png'}"]
        answer = subprocess.run(
            [*command, f"{server.url}/v1/inspect"], capture_output=True, text=True, check=True
        )
        assert '"product":"b"' in answer.stdout
        form = ["curl", "-sS", "-F", f"image=@{tmp_path / 'a.png'}", f"{server.url}/v1/inspect"]
        assert '"image":"a.png"' in subprocess.run(form, capture_output=True, text=True).stdout
        with httpx.Client() as client:  # keeps its connection
            assert client.get(f"{server.url}/readyz").json()["ready"]
            assert server.end() == 128 + signal.SIGTERM
        assert "stopped (SIGTERM)" in server.output
        assert "Traceback" not in server.output
    assert count(Database(run / "service" / "line.sqlite"), Inspection) == 2


@pytest.mark.slow
def test_an_image_that_was_taken_is_answered_before_the_service_ends(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    run, content = run_of(tmp_path, learned), picture(data_root)
    # an image alone waits so long for others: the signal comes meanwhile
    with serving(run, "--batch-wait=10") as server, ThreadPoolExecutor(1) as pool:
        place = f"{server.url}/v1/inspect"
        taken = pool.submit(httpx.post, place, content=content, timeout=60)
        wait_until(
            lambda: (
                "moleflow_taken_images 1.0" in httpx.get(f"{server.url}/metrics").text
                or taken.done()
            )
        )
        assert not taken.done()
        assert server.end() == 128 + signal.SIGTERM
        assert taken.result(60).status_code == 200
    assert count(Database(run / "service" / "line.sqlite"), Inspection) == 1


@pytest.mark.slow
def test_a_kill_under_load_loses_no_answer_and_judges_no_file_twice(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    run, inbox = run_of(tmp_path, learned), tmp_path / "in"
    inbox.mkdir()
    content = picture(data_root)
    answered: list[int] = []

    def load(server: Server) -> None:
        with httpx.Client(timeout=30) as client:
            while True:
                try:
                    answer = client.post(f"{server.url}/v1/inspect", content=content)
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    answered.append(answer.json()["id"])

    draw = random.Random(0)
    for turn in range(3):
        for i in range(6):
            (inbox / f"{turn}-{i}.png").write_bytes(content)
        with serving(run, f"--source=folder:{inbox}") as server:
            threads = [threading.Thread(target=load, args=(server,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            before = len(answered)
            wait_until(lambda before=before: len(answered) > before, 60)
            time.sleep(draw.uniform(0, 1))
            server.kill()
            for thread in threads:
                thread.join()
    database = Database(run / "service" / "line.sqlite")
    with serving(run, f"--source=folder:{inbox}"):
        wait_until(lambda: count(database, SeenFile) == 18, 60)
    with database.reading() as session:
        numbers = set(session.scalars(select(Inspection.id)))
        watched = list(
            session.scalars(select(Inspection.image_name).where(Inspection.source != "http"))
        )
    assert answered
    assert set(answered) <= numbers
    assert len(set(answered)) == len(answered)
    assert sorted(watched) == sorted(path.name for path in inbox.iterdir())


@pytest.mark.slow
def test_workers_share_the_record_and_follow_a_published_model(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    run, content = run_of(tmp_path, learned), picture(data_root)
    with serving(run, "--workers=2") as server:
        models = set()
        for _ in range(10):  # each on a connection of its own
            models.add(httpx.post(f"{server.url}/v1/inspect", content=content).json()["model"])
        assert len(models) == 1
        database = Database(run / "service" / "line.sqlite")
        assert count(database, Inspection) == 10
        other = shutil.copy(learned[0] / "tasks" / "00-01.ckpt", tmp_path / "other.ckpt")
        published = publish(database, other, "ann")

        def followed() -> bool:
            got = [httpx.get(f"{server.url}/v1/products").json()["model"] for _ in range(8)]
            return set(got) == {published.digest}

        wait_until(followed, 30)
        numbers = httpx.get(f"{server.url}/metrics").text
        assert 'moleflow_decisions_total{label="' in numbers
        assert server.end() == 128 + signal.SIGTERM
    assert "Traceback" not in server.output


@pytest.mark.slow
def test_slow_clients_hold_up_nobody(tmp_path: Path, learned: Learned, data_root: Path) -> None:
    with serving(run_of(tmp_path, learned), "--deadline=15") as server:
        host, port = server.url.removeprefix("http://").split(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(100)]
        for one in slow:
            one.sendall(
                b"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\nx"
            )
        answer = httpx.post(f"{server.url}/v1/inspect", content=picture(data_root), timeout=60)
        assert answer.status_code == 200
        slow[0].settimeout(60)
        assert b"408" in slow[0].recv(1000)
        for one in slow:
            one.close()
        assert server.end() == 128 + signal.SIGTERM


@pytest.mark.slow
def test_ten_thousand_bad_uploads_leave_the_service_as_it_was(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    content, draw = picture(data_root), random.Random(0)

    with serving(run_of(tmp_path, learned), "--rate=100000") as server, httpx.Client() as client:

        def score() -> float:
            answer = client.post(f"{server.url}/v1/inspect", content=content)
            assert answer.status_code == 200, answer.text
            return answer.json()["score"]

        before = score()
        for _ in range(10_000):
            # Pillow does without the last bytes, which hold no pixels
            bad = content[: draw.randrange(len(content) - 200)]
            answer = client.post(f"{server.url}/v1/inspect", content=bad)
            assert answer.status_code == 422, answer.text
        assert score() == before
    folder = tmp_path / "run" / "service" / "images"
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 2
