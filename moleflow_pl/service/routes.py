"""The HTTP API: inspect images, query the record, and check the service."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi import Path as Part
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import undefer

from moleflow_pl.data.image_forms import decoded
from moleflow_pl.data.images import read_rgb, shrink
from moleflow_pl.inference.heatmap import draw_heatmap
from moleflow_pl.service.database import Database, Inspection, reason_of
from moleflow_pl.service.records import as_json, prediction_of
from moleflow_pl.service.state import Service, service_of
from moleflow_pl.service.uploads import read_uploads

LONGEST_SIDE = 1024  # pixels of pictures for display
MOST_ROWS = 500
LARGEST_ID = 2**63 - 1  # of databases
BODY = {
    "requestBody": {
        "description": "one image file, or a form with one or many",
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
        },
    }
}
Heatmap = Literal["none", "link", "inline"]
Number = Annotated[int, Part(ge=1, le=LARGEST_ID)]

router = APIRouter()


@router.get("/healthz", tags=["service"])
async def healthz() -> dict[str, str]:
    """Whether the process is alive."""
    return {"status": "ok"}


@router.get("/readyz", tags=["service"])
async def readyz(request: Request) -> Response:
    """Whether the service can inspect images; with the token, also the state of each part."""
    service = service_of(request)
    trouble = await asyncio.to_thread(database_trouble, service.database)
    line = service.line
    ready = trouble is None and service.engine.alive and line.recorder.alive and not line.stopping
    detail: dict[str, Any] = {"ready": ready}
    if service.keys.may_ask(request):
        parts = {
            "database": trouble or "ok",
            "recorder": "ok" if line.recorder.alive else "it has ended: restart the service",
            "model": service.engine.model.digest,
        }
        states = {
            name: [health.as_json() for health in part] for name, part in service.health.items()
        }
        detail |= {**parts, **states, "waiting": service.engine.waiting}
    return JSONResponse(detail, 200 if ready else 503)


def database_trouble(database: Database) -> str | None:
    """The error of a database that does not answer; None if it answers."""
    try:
        database.check()
    except SQLAlchemyError as error:
        return reason_of(error)
    return None


@router.get("/metrics", tags=["service"])
def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    service = service_of(request)
    service.measure()
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/products", tags=["inspect"])
async def products(request: Request) -> dict[str, Any]:
    """The products that the model knows, with their thresholds."""
    model = service_of(request).engine.model
    entries = []
    for name in model.predictor.products:
        decisions = model.predictor_for(name).decisions
        assert decisions.task is not None
        limits = decisions.limits.get(decisions.task)
        entries.append({"name": name, "threshold": None if limits is None else limits.score})
    return {"products": entries, "model": model.digest}


@router.post("/v1/inspect", tags=["inspect"], openapi_extra=BODY)
async def inspect(
    request: Request,
    product: Annotated[str | None, Query(description="the product that all images show")] = None,
    heatmap: Annotated[Heatmap, Query(description="as a link, or in the answer")] = "none",
    boxes: Annotated[bool, Query(description="draw the defects' boxes in the heatmap")] = False,
) -> JSONResponse:
    """Inspect images: an object for an image body, a list of them for a form.

    The response is sent after the inspection is in the database.
    """
    service = service_of(request)
    line, settings = service.line, service.settings
    line.check_room()
    uploads, fields = await read_uploads(request, settings.max_bytes, settings.queue)
    rows = await line.inspect(uploads, "http", product)
    answers = []
    for row, upload in zip(rows, uploads, strict=True):
        answer = as_json(row)
        if heatmap == "link":
            answer["heatmap"] = f"/v1/inspections/{row.id}/heatmap.png{'?boxes=true' * boxes}"
        elif heatmap == "inline":
            picture = await asyncio.to_thread(draw, row, upload.content, boxes)
            answer["heatmap"] = base64.b64encode(picture).decode()
        answers.append(answer)
    return JSONResponse(answers[0] if fields is None else {"inspections": answers})


@router.get("/v1/inspections", tags=["record"])
def inspections(
    request: Request,
    product: str | None = None,
    label: str | None = None,
    since: Annotated[float | None, Query(description="seconds since 1970, UTC")] = None,
    until: Annotated[float | None, Query(description="seconds since 1970, UTC; exclusive")] = None,
    cursor: Annotated[
        int | None, Query(description="`next` of the page before", ge=1, le=LARGEST_ID)
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
) -> dict[str, Any]:
    """Past inspections, the newest first, by pages."""
    rows = find_inspections(
        service_of(request).database, product, label, since, until, cursor, limit
    )
    last = rows[-1].id if len(rows) == limit else None
    return {"inspections": [as_json(row) for row in rows], "next": last}


def find_inspections(
    database: Database,
    product: str | None = None,
    label: str | None = None,
    since: float | None = None,
    until: float | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Inspection]:
    """Past inspections, the newest first; `before` is the id of the last one seen."""
    query = select(Inspection).order_by(Inspection.id.desc()).limit(limit)
    if product is not None:
        query = query.where(Inspection.product == product)
    if label is not None:
        query = query.where(Inspection.label == label)
    if since is not None:
        query = query.where(Inspection.time >= since)
    if until is not None:
        query = query.where(Inspection.time < until)
    if before is not None:
        query = query.where(Inspection.id < before)
    with database.reading() as session:
        return list(session.scalars(query))


@router.get("/v1/inspections/{number}", tags=["record"])
def one_inspection(request: Request, number: Number) -> dict[str, Any]:
    """One inspection."""
    return as_json(require_inspection(service_of(request), number))


@router.get("/v1/inspections/{number}/image", tags=["record"])
def image(request: Request, number: Number) -> FileResponse:
    """The original image file."""
    path = require_image(service_of(request), number)[1]
    return FileResponse(path, filename=path.name)


@router.get("/v1/inspections/{number}/preview.png", tags=["record"])
def preview(request: Request, number: Number) -> Response:
    """The image, shrunk for display."""
    path = require_image(service_of(request), number)[1]
    return Response(as_png(shrink(read_rgb(path), LONGEST_SIDE)), media_type="image/png")


@router.get("/v1/inspections/{number}/heatmap.png", tags=["record"])
def drawn_heatmap(request: Request, number: Number, boxes: bool = False) -> Response:
    """The image with its score map."""
    row, path = require_image(service_of(request), number)
    return Response(draw(row, path, boxes), media_type="image/png")


def require_inspection(service: Service, number: int) -> Inspection:
    """An inspection with its map.

    Raises:
        HTTPException: no inspection has this number.
    """
    with service.database.reading() as session:
        row = session.get(Inspection, number, options=[undefer(Inspection.patch_scores)])
    if row is None:
        raise HTTPException(404, f"there is no inspection {number}")
    return row


def require_image(service: Service, number: int) -> tuple[Inspection, Path]:
    """An inspection and its image.

    Raises:
        HTTPException: no inspection has this number, or its image was not stored.
    """
    row = require_inspection(service, number)
    path = service.store.path(row.image_path)
    if path is None:
        raise HTTPException(404, f"the image of inspection {number} was not kept")
    return row, path


def draw(row: Inspection, image: bytes | Path, boxes: bool) -> bytes:
    """A heatmap as a PNG, shrunk for display."""
    rgb = shrink(read_rgb(image) if isinstance(image, Path) else decoded(image), LONGEST_SIDE)
    return as_png(draw_heatmap(rgb, prediction_of(row, rgb), boxes))


def as_png(picture: Any) -> bytes:
    """A picture as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
