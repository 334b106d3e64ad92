"""The page of the service itself."""

import re
from pathlib import Path

import httpx
import pytest

from moleflow_pl.service import parts
from moleflow_pl.service.settings import Settings
from tests.helpers.reviewing import kept_run
from tests.helpers.service import client_of, picture, wait_until
from tests.helpers.serving import serving

DOWN = "webhook:http://127.0.0.1:9/hook"  # nobody listens there
ROW = re.compile(r"</span>(\w+)</span></td>\s*<th .*?>(\w+)</span><br>(.*?)</th>\s*<td>(.*?)</td>")


def rows(text: str) -> dict[str, tuple[str, str, str]]:
    """Kind, state and detail of each part, by its name."""
    return {name: (kind, state, detail) for state, kind, name, detail in ROW.findall(text)}


def state(found: dict[str, tuple[str, str, str]], name: str) -> str:
    return found[name][1] if name in found else ""


def test_the_page_shows_the_health_of_every_source_and_sink(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    run = str(kept_run(tmp_path / "run").parent)
    source, sink = f"folder:{tmp_path / 'in'}", f"csv:{tmp_path / 'line.csv'}"
    with client_of(Settings(run, sources=[source], sinks=[sink, DOWN])) as client:
        client.post("/v1/inspect", content=picture(data_root))

        def found() -> dict[str, tuple[str, str, str]]:
            return rows(client.get("/service/parts").text)

        wait_until(lambda: state(found(), DOWN) == "fails", 30)
        wait_until(lambda: found().get(sink, ("", "", ""))[2] == "delivering", 30)
        assert [found()[name][:2] for name in (source, sink, DOWN)] == [
            ("Source", "works"),
            ("Sink", "works"),
            ("Sink", "fails"),
        ]
        assert {"drift", "learning", "images"} <= set(found())
        page = client.get("/service").text
        assert client.service.engine.model.digest[:12] in page  # type: ignore[attr-defined]
        assert rows(page)
        monkeypatch.setattr(parts, "SILENT_SECONDS", -1.0)
        assert {state for _, state, _ in found().values()} == {"silent"}


@pytest.mark.slow
def test_every_worker_shows_the_health_of_all(tmp_path: Path, data_root: Path) -> None:
    run = kept_run(tmp_path / "run").parent
    sink = f"csv:{tmp_path / 'line.csv'}"
    with serving(run, "--workers=2", f"--sink={sink}", f"--sink={DOWN}") as server:
        httpx.post(f"{server.url}/v1/inspect", content=picture(data_root))

        def found() -> dict[str, tuple[str, str, str]]:
            return rows(httpx.get(f"{server.url}/service/parts").text)

        wait_until(lambda: state(found(), DOWN) == "fails", 60)
        wait_until(lambda: found().get(sink, ("", "", ""))[2] == "delivering", 60)
        wait_until(lambda: sum(kind == "Model" for kind, _, _ in found().values()) == 2, 60)
        for _ in range(20):  # whichever answers
            assert state(found(), DOWN) == "fails"
            assert found()[sink][1] == "works"
