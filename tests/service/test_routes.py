"""What programs ask a service."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl.service.database import Inspection
from tests.helpers.service import client_of, count, picture, settings_for, wait_until

Learned = tuple[Path, MoLEFlow]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, learned: Learned) -> Iterator[TestClient]:
    with client_of(settings_for(tmp_path_factory.mktemp("service"), learned[0])) as client:
        yield client


def test_an_answer_is_the_prediction_and_is_in_the_database(
    client: TestClient, learned: Learned, data_root: Path
) -> None:
    content = picture(data_root, kind="square")
    answer = client.post("/v1/inspect", params={"name": "a.png"}, content=content).json()
    plain = Predictor.load(learned[0])(content).to_dict()
    assert answer["score"] == pytest.approx(plain["score"], rel=1e-5)
    assert {name: answer[name] for name in ("product", "label", "boxes", "size")} == {
        name: plain[name] for name in ("product", "label", "boxes", "size")
    }
    again = client.get(f"/v1/inspections/{answer['id']}").json()
    assert again == answer
    assert (again["image"], again["source"], again["review"]) == ("a.png", "http", None)


def test_a_form_brings_many_images_and_gets_a_list(client: TestClient, data_root: Path) -> None:
    files = [("image", (f"{i}.png", picture(data_root, number=i), "image/png")) for i in range(3)]
    answers = client.post("/v1/inspect", files=files).json()["inspections"]
    assert [one["image"] for one in answers] == ["0.png", "1.png", "2.png"]


def test_a_given_product_is_taken_and_an_unknown_one_named(
    client: TestClient, data_root: Path
) -> None:
    content = picture(data_root)
    answer = client.post("/v1/inspect", params={"product": "01"}, content=content).json()
    assert (answer["product"], answer["router_margin"]) == ("01", None)
    refused = client.post("/v1/inspect", params={"product": "nut"}, content=content)
    assert refused.status_code == 422
    assert "'nut'" in refused.json()["detail"]


def test_a_heatmap_comes_in_the_answer_or_by_a_link(client: TestClient, data_root: Path) -> None:
    content = picture(data_root, kind="square")
    inline = client.post(
        "/v1/inspect", params={"heatmap": "inline", "boxes": True}, content=content
    )
    link = client.post("/v1/inspect", params={"heatmap": "link", "boxes": True}, content=content)
    drawn = base64.b64decode(inline.json()["heatmap"])
    linked = client.get(link.json()["heatmap"])
    assert linked.headers["content-type"] == "image/png"
    assert (
        Image.open(io.BytesIO(drawn)).tobytes() == Image.open(io.BytesIO(linked.content)).tobytes()
    )
    number = link.json()["id"]
    assert client.get(f"/v1/inspections/{number}/image").content == content
    assert Image.open(io.BytesIO(client.get(f"/v1/inspections/{number}/preview.png").content)).size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "file is empty"),
        (b"%PDF-1.4 ...", "cannot identify it as one of"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot"),
    ],
)
def test_what_is_no_image_gets_422_and_the_reason(
    client: TestClient, content: bytes, reason: str
) -> None:
    before = count(client.service.database, Inspection)  # type: ignore[attr-defined]
    answer = client.post("/v1/inspect", content=content)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert count(client.service.database, Inspection) == before  # type: ignore[attr-defined]


def test_a_bad_image_among_good_ones_is_named_and_nothing_is_kept(
    client: TestClient, data_root: Path
) -> None:
    service = client.service  # type: ignore[attr-defined]

    def kept() -> int:
        return len(list(service.store.folder.rglob("*.png")))

    before = kept()
    files = [("a", ("good.png", picture(data_root))), ("b", ("../../bad\n.png", b"none"))]
    answer = client.post("/v1/inspect", files=files)
    assert answer.status_code == 422
    assert "bad" in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    # a lane that is busy with the good image drops it when it is done
    wait_until(lambda: service.engine.idle)
    assert kept() == before


def test_a_form_without_files_is_told_so(client: TestClient) -> None:
    answer = client.post(
        "/v1/inspect",
        content=b"--x--\r\n",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 422
    assert client.post(
        "/v1/inspect", content=b"x", headers={"content-type": "multipart/form-data"}
    ).status_code == 422  # fmt: skip


def test_inspections_are_filtered_and_come_by_pages(client: TestClient, data_root: Path) -> None:
    for kind in ("good", "square", "good"):
        client.post("/v1/inspect", content=picture(data_root, kind=kind))
    first = client.get("/v1/inspections", params={"limit": 2}).json()
    second = client.get("/v1/inspections", params={"limit": 500, "cursor": first["next"]}).json()
    numbers = [one["id"] for one in first["inspections"] + second["inspections"]]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 1
    assert second["next"] is None
    found = client.get("/v1/inspections", params={"product": "b"}).json()["inspections"]
    assert {one["product"] for one in found} == {"b"}
    newest = first["inspections"][0]
    later = client.get("/v1/inspections", params={"since": newest["time"]}).json()
    assert [one["id"] for one in later["inspections"]] == [newest["id"]]
    assert newest not in client.get(
        "/v1/inspections", params={"until": newest["time"]}
    ).json()["inspections"]  # fmt: skip
    assert client.get("/v1/inspections", params={"label": "none such"}).json()["inspections"] == []


def test_products_come_with_their_thresholds(client: TestClient) -> None:
    products = client.get("/v1/products").json()["products"]
    assert [one["name"] for one in products] == ["01", "b"]


def test_what_does_not_exist_is_404(client: TestClient) -> None:
    for path in ("", "/image", "/heatmap.png", "/preview.png"):
        assert client.get(f"/v1/inspections/999999{path}").status_code == 404
    assert client.get(f"/v1/inspections/{2**70}").status_code == 422


def test_an_image_that_was_removed_is_404_and_its_row_stays(
    client: TestClient, data_root: Path
) -> None:
    number = client.post("/v1/inspect", content=picture(data_root)).json()["id"]
    service = client.service  # type: ignore[attr-defined]
    with service.database.reading() as session:
        place = session.get(Inspection, number).image_path
    (service.store.folder / place).unlink()
    assert client.get(f"/v1/inspections/{number}/heatmap.png").status_code == 404
    assert client.get(f"/v1/inspections/{number}").status_code == 200


def test_the_service_says_how_it_is(client: TestClient, data_root: Path) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.post("/v1/inspect", content=picture(data_root)).status_code == 200
    assert client.post("/v1/inspect", content=b"no image").status_code == 422
    ready = client.get("/readyz").json()
    assert ready["ready"] is True
    assert ready["database"] == "ok"
    numbers = client.get("/metrics").text
    assert 'moleflow_decisions_total{label="' in numbers
    assert "moleflow_inspection_seconds_bucket" in numbers
    assert "moleflow_waiting_images 0.0" in numbers
    assert 'moleflow_refused_total{reason="data"}' in numbers


def test_the_page_for_programs_names_every_answer_and_needs_no_network(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "POST /v1/inspect" in page
    assert "heatmap" in page
    assert "http" not in page.replace("http://127.0.0.1", "").replace("<!DOCTYPE html>", "")
    assert "<script" not in page
    assert client.get("/openapi.json").json()["paths"]["/v1/inspect"]["post"]["requestBody"]


def test_service_without_its_recorder_is_not_ready(tmp_path: Path, learned: Learned) -> None:
    with client_of(settings_for(tmp_path, learned[0])) as client:
        client.service.line.recorder.stop()  # type: ignore[attr-defined]
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["recorder"] == "it has ended: restart the service"
