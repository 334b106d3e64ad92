import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from moleflow_pl.service.app import make_app
from moleflow_pl.service.products import jobs
from moleflow_pl.service.settings import Settings
from moleflow_pl.service.state import Service
from tests.helpers.reviewing import kept_run


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service whose teacher does nothing."""
    where = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:

        async def nothing(self: Any) -> None:
            await asyncio.sleep(3600)

        patch.setattr("moleflow_pl.service.products.Teacher.run", nothing)
        service = Service(Settings(str(kept_run(where / "run")), device="cpu"))
        with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
            yield client


def files(data_root: Path) -> list[tuple[str, tuple[str, bytes, str]]]:
    paths = sorted((data_root / "c" / "train" / "good").glob("*.png"))
    return [("image", (f"../{path.name}", path.read_bytes(), "image/png")) for path in paths]


def test_product_is_ordered_by_uploaded_images_and_by_a_folder(
    client: TestClient, data_root: Path
) -> None:
    answer = client.post("/v1/products", data={"name": "c", "epochs": "2"}, files=files(data_root))
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["product"], job["epochs"], job["state"]) == ("c", 2, "waits")
    kept = Path(job["images"])
    service = client.app.state.service  # type: ignore[attr-defined]
    assert kept.parent == (service.settings.folder / "products").absolute()
    assert len(list(kept.iterdir())) == len(files(data_root))
    folder = data_root / "c" / "train" / "good"
    answer = client.post("/v1/products", data={"name": "d", "folder": str(folder)})
    assert answer.json()["images"] == str(folder)
    listed = client.get("/v1/products/jobs").json()["jobs"]
    assert [one["product"] for one in listed] == ["c", "d"]
    assert "c: waits" in client.get("/products").text
    assert "d: waits" in client.get("/products/jobs").text


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        ({"name": "x"}, 422, "give good images"),
        ({"name": "x", "folder": "/none"}, 422, "no folder of images at /none"),
        ({"name": "x", "folder": "/", "epochs": "many"}, 422, "epochs must be a number"),
        ({"name": "../x", "folder": "/"}, 422, "not a valid product name"),
        ({"name": "b", "folder": "/"}, 422, "is already known or being learned"),
    ],
)
def test_order_that_cannot_be_is_refused(
    data: dict[str, str], status: int, said: str, client: TestClient
) -> None:
    answer = client.post("/v1/products", data=data)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text


def test_file_that_is_no_image_is_refused(client: TestClient) -> None:
    bad = [("image", ("a.png", b"no", "image/png"))] * 2
    answer = client.post("/v1/products", data={"name": "y"}, files=bad)
    assert answer.status_code == 422
    service = client.app.state.service  # type: ignore[attr-defined]
    assert "y" not in [job.product for job in jobs(service.database)]


def test_order_that_is_refused_keeps_no_uploads(client: TestClient, data_root: Path) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    place = service.settings.folder / "products"

    def kept() -> set[Path]:
        return set(place.iterdir()) if place.exists() else set()

    before, good = kept(), files(data_root)
    bad = ("image", ("a.png", b"no", "image/png"))
    for data, sent in (
        ({"name": "b"}, good), ({"name": "w"}, [*good, bad]), ({"name": "w"}, good[:1]),
        ({"name": "w", "epochs": "9" * 5000}, good),
    ):  # fmt: skip
        answer = client.post("/v1/products", data=data, files=sent)
        assert answer.status_code == 422, answer.text
        assert len(answer.text) < 500
    assert kept() == before


def test_form_of_another_page_orders_nothing(client: TestClient) -> None:
    answer = client.post("/products", data={"name": "z", "folder": "/", "form": "0"})
    assert answer.status_code == 403


def test_page_shows_at_once_what_it_ordered(client: TestClient, data_root: Path) -> None:
    found = re.search(r'name="form" value="(\w+)"', client.get("/products").text)
    assert found
    data = {"name": "e", "folder": str(data_root / "c"), "form": found[1], "who": "Ann"}
    answer = client.post("/products", data=data, headers={"HX-Request": "true"})
    assert "e: waits" in answer.text
    assert "(Ann)" in answer.text
    assert "<html" not in answer.text
    answer = client.post("/products", data={**data, "name": "f"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/products")
