"""Requests to learn new products, from the page or by HTTP, and their progress."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import FormData, UploadFile

from moleflow_pl.service.page import is_script, name_of, rendered, require_form
from moleflow_pl.service.products import UPLOADS, Job, jobs, order, save_uploads
from moleflow_pl.service.state import Service, service_of

MOST_IMAGES = 5000  # of a product, in one form

router = APIRouter()


@router.post("/v1/products", tags=["products"], status_code=202)
async def order_product(request: Request) -> dict[str, Any]:
    """Learn a product: a form with `name`, good images or `folder`, and optionally `epochs`.

    The answer comes at once; `GET /v1/products/jobs` returns the progress. The service continues to
    inspect, and switches to the new model without losing a request.
    """
    async with request.form(max_files=MOST_IMAGES) as fields:
        return asdict(await take_order(service_of(request), fields, "http"))


@router.get("/v1/products/jobs", tags=["products"])
def product_jobs(request: Request) -> dict[str, Any]:
    """All requested products with their progress, the oldest first."""
    return {"jobs": [asdict(job) for job in jobs(service_of(request).database)]}


@router.post("/products", include_in_schema=False)
async def order_from_page(request: Request) -> Response:
    """Learn a product."""
    async with request.form(max_files=MOST_IMAGES) as fields:
        require_form(request, str(fields.get("form", "")))
        await take_order(service_of(request), fields, name_of(str(fields.get("who", ""))))
    if not is_script(request):
        return RedirectResponse("/products", 303)
    return await asyncio.to_thread(jobs_part, request)


@router.get("/products/jobs", include_in_schema=False)
def jobs_part(request: Request) -> Response:
    """The progress of all jobs, as a fragment of the page."""
    return rendered(request, "jobs.html", jobs=jobs(service_of(request).database))


async def take_order(service: Service, fields: FormData, who: str) -> Job:
    """Create the job that a form describes.

    Raises:
        HTTPException: it has neither images nor a folder, or an invalid number.
        MoLEFlowError: the product cannot be learned.
    """
    name, folder, epochs = (str(fields.get(key, "")) for key in ("name", "folder", "epochs"))
    if epochs and not (epochs.isdecimal() and 0 < int(epochs) <= 10_000):
        raise HTTPException(422, f"epochs must be a number from 1 to 10000, got {epochs!r}")
    files = [
        value
        for key, value in fields.multi_items()
        if key == "image" and isinstance(value, UploadFile) and value.size
    ]
    if bool(files) == bool(folder):
        raise HTTPException(422, "give good images (image=@FILE, one or more), or a folder")
    if any((file.size or 0) > service.settings.max_bytes for file in files):
        raise HTTPException(413, f"an image has more than {service.settings.max_bytes} bytes")
    place = Path(folder)
    if files:
        contents = [await file.read() for file in files]
        place = await asyncio.to_thread(keep_images, service, contents)
    given = {"epochs": int(epochs)} if epochs else {}
    return await asyncio.to_thread(order, service.database, name, place, who, **given)


def keep_images(service: Service, contents: list[bytes]) -> Path:
    """Store uploaded images, if all of them can be read.

    Raises:
        DataError: a file is not an image.
    """
    endings = [f".{service.store.decode(content)[1].lower()}" for content in contents]
    folder = service.settings.folder / UPLOADS
    return save_uploads(folder, list(zip(endings, contents, strict=True)))
