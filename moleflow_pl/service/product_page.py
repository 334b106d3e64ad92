"""Requests to learn new products, from the page or by HTTP, and their progress."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import FormData, UploadFile

from moleflow_pl.service.page import is_script, name_of, rendered, require_form
from moleflow_pl.service.products import UPLOADS, Job, jobs, order, save_uploads
from moleflow_pl.service.state import Service, service_of
from moleflow_pl.service.uploads import FIELDS

MOST_IMAGES = 5000  # of a product, in one form
MOST_EPOCHS = 10_000

router = APIRouter()


@router.post("/v1/products", tags=["products"], status_code=202)
async def order_product(request: Request) -> dict[str, Any]:
    """Learn a product: a form with `name`, good images or `folder`, and optionally `epochs`.

    The answer comes at once; `GET /v1/products/jobs` returns the progress. The service continues to
    inspect, and switches to the new model without losing a request.
    """
    async with request.form(max_files=MOST_IMAGES, max_fields=FIELDS) as fields:
        return asdict(await create_job(service_of(request), fields, "http"))


@router.get("/v1/products/jobs", tags=["products"])
def product_jobs(request: Request) -> dict[str, Any]:
    """All requested products with their progress, the oldest first."""
    return {"jobs": [asdict(job) for job in jobs(service_of(request).database)]}


@router.post("/products", include_in_schema=False)
async def order_from_page(request: Request) -> Response:
    """Learn a product."""
    async with request.form(max_files=MOST_IMAGES, max_fields=FIELDS) as fields:
        require_form(request, str(fields.get("form", "")))
        await create_job(service_of(request), fields, name_of(str(fields.get("who", ""))))
    if not is_script(request):
        return RedirectResponse("/products", 303)
    return await asyncio.to_thread(jobs_part, request)


@router.get("/products/jobs", include_in_schema=False)
def jobs_part(request: Request) -> Response:
    """The progress of all jobs, as a fragment of the page."""
    return rendered(request, "jobs.html", jobs=jobs(service_of(request).database))


async def create_job(service: Service, fields: FormData, who: str) -> Job:
    """Create the job that a form describes.

    Raises:
        HTTPException: the form has neither images nor a folder, or an invalid number.
        MoLEFlowError: the product cannot be learned.
    """
    name, folder, epochs = (str(fields.get(key, "")) for key in ("name", "folder", "epochs"))
    if epochs and not (epochs.isdecimal() and len(epochs) < 6 and 0 < int(epochs) <= MOST_EPOCHS):
        raise HTTPException(
            422, f"epochs must be a number from 1 to {MOST_EPOCHS}, got {epochs[:20]!r}"
        )
    files = [
        value
        for key, value in fields.multi_items()
        if key == "image" and isinstance(value, UploadFile) and value.size
    ]
    if bool(files) == bool(folder):
        raise HTTPException(422, "give good images (image=@FILE, one or more), or a folder")
    if any((file.size or 0) > service.settings.max_bytes for file in files):
        raise HTTPException(413, f"an image has more than {service.settings.max_bytes} bytes")
    given = {"epochs": int(epochs)} if epochs else {}
    if files:
        return await asyncio.to_thread(order_uploads, service, files, name, who, **given)
    return await asyncio.to_thread(order, service.database, name, Path(folder), who, **given)


def order_uploads(
    service: Service, files: Sequence[UploadFile], name: str, who: str, **given: int
) -> Job:
    """Store uploaded images, and create their job; nothing stays of a job that cannot be.

    Raises:
        MoLEFlowError: the product cannot be learned.
    """
    place = keep_images(service, files)
    try:
        return order(service.database, name, place, who, **given)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def keep_images(service: Service, files: Sequence[UploadFile]) -> Path:
    """Store uploaded images one after another, if all of them can be read.

    Raises:
        DataError: a file is not an image.
    """

    def checked() -> Iterator[tuple[str, bytes]]:
        for file in files:
            content = file.file.read()
            yield f".{service.store.decode(content)[1].lower()}", content

    return save_uploads(service.settings.folder / UPLOADS, checked())
