"""The web page: the stream of decisions, single inspections, reviews, and counts of a shift."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Header, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader
from sqlalchemy.exc import SQLAlchemyError

from moleflow_pl.service.database import Database, Inspection, Review
from moleflow_pl.service.drift import ask_restart, drifts
from moleflow_pl.service.page_queries import (
    SHIFT_HOURS,
    Filters,
    decisions,
    history,
    last_number,
    neighbours,
    tallies,
)
from moleflow_pl.service.products import jobs
from moleflow_pl.service.reviews import (
    apply_reviews,
    counts,
    elsewhere,
    pending,
    preview_reviews,
)
from moleflow_pl.service.routes import LARGEST_ID, Number
from moleflow_pl.service.score_history import WORDS, score_history
from moleflow_pl.service.state import service_of
from moleflow_pl.service.uploads import read_uploads

TEMPLATES = Path(__file__).with_name("templates")
STATIC = Path(__file__).with_name("static")
VERDICTS = {
    "right": "Right",
    "false_alarm": "False alarm",
    "missed_defect": "Missed defect",
    "other_product": "Other product",
}
# of each label, in the order of their keys
ALLOWED: dict[str | None, tuple[str, ...]] = {
    "normal": ("right", "missed_defect", "other_product"),
    "anomalous": ("right", "false_alarm", "other_product"),
    "unknown_product": ("right", "false_alarm", "missed_defect", "other_product"),
    None: ("other_product",),
}
PAGE = "page"  # source of the images that people bring
NOBODY = "unnamed"
LONGEST_WHO = 80  # characters
LOOK = 0.5  # seconds between two checks for new decisions
ALIVE = 15.0  # seconds between two keep-alive messages

pages = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
pages.globals.update(words=WORDS, verdicts=VERDICTS)
pages.filters["iso"] = lambda seconds: datetime.fromtimestamp(seconds, UTC).isoformat()
pages.filters["clock"] = lambda seconds: (
    datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
)

router = APIRouter(include_in_schema=False)


def rendered(request: Request, name: str, **values: Any) -> HTMLResponse:
    """Render a template as a response."""
    form = service_of(request).keys.form_token(request)
    return HTMLResponse(pages.get_template(name).render(form=form, **values))


@router.get("/")
def stream(request: Request) -> Response:
    """The decisions, with filters."""
    service = service_of(request)
    names = service.engine.model.predictor.products
    last = last_number(service.database)  # before the rows: what comes later is sent as an event
    return rendered(
        request, "stream.html", here="stream", products=names, last=last, **shown(request)
    )


@router.get("/stream")
def stream_part(request: Request) -> Response:
    """The decisions alone, for the page that is open."""
    return rendered(request, "stream_part.html", **shown(request))


def shown(request: Request) -> dict[str, Any]:
    """The decisions that match the filters of a request."""
    filters = Filters.of(request.query_params)
    found, before = decisions(service_of(request).database, filters)
    older = "" if before is None else filters.query(before)
    return {"inspections": found, "older": older, "chosen": filters, "filtered": filters.are_set}


@router.get("/events")
async def events(
    request: Request,
    after: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0,
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    """Notify a browser whenever any process has recorded an inspection.

    Args:
        request: The request.
        after: The newest inspection that the page was rendered with.
        last_event_id: The newest that the browser heard of, if it connects again.
    """
    database = service_of(request).database
    last = int(last_event_id) if re.fullmatch(r"[0-9]{1,18}", last_event_id) else after
    return StreamingResponse(
        recorded(request, database, last),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def recorded(request: Request, database: Database, last: int) -> AsyncIterator[str]:
    """Yield an event after each check with new inspections, until the browser disconnects.

    Args:
        request: The request of the browser.
        database: The record.
        last: The newest inspection that the browser knows; newer ones are sent at once.
    """
    sent = time.monotonic()
    yield ": here\n\n"
    while not await request.is_disconnected() and not service_of(request).line.stopping:
        number, now = last, time.monotonic()
        with suppress(SQLAlchemyError):  # the next check is soon
            number = await asyncio.to_thread(last_number, database)
        if number != last:
            last, sent = number, now
            yield f"id: {number}\nevent: recorded\ndata: {number}\n\n"
        elif now - sent > ALIVE:
            sent = now
            yield ": still here\n\n"
        await asyncio.sleep(LOOK)


@router.post("/inspect")
async def inspect(request: Request) -> Response:
    """Inspect images that a person brings; the page that is open shows them as they come."""
    service = service_of(request)
    line, settings = service.line, service.settings
    line.check_room()
    uploads, fields = await read_uploads(request, settings.max_bytes, settings.queue)
    require_form(request, (fields or {}).get("form", ""))
    if not any(upload.content for upload in uploads):  # what a browser sends where none was chosen
        raise HTTPException(422, "choose images to inspect")
    await line.inspect(uploads, PAGE)
    return Response(status_code=204) if is_script(request) else RedirectResponse("/", 303)


@router.get("/inspections/{number}")
def inspection(request: Request, number: Number) -> Response:
    """The page of one inspection."""
    database = service_of(request).database
    row = require(database, number)
    newer, older = neighbours(database, number)
    height, width = row.prediction["size"]
    drawing = score_history(history(database, row), number)
    return rendered(
        request, "inspection.html", newer=newer, older=older, width=width, height=height,
        history=drawing, **reviewing(request, row),
    )  # fmt: skip


def reviewing(request: Request, row: Inspection) -> dict[str, Any]:
    """Values for the review buttons."""
    names = service_of(request).engine.model.predictor.products
    others = [name for name in names if name != row.product]
    return {"inspection": row, "allowed": ALLOWED[row.label], "others": others}


def require(database: Database, number: int) -> Inspection:
    """An inspection with its reviews.

    Raises:
        HTTPException: no inspection has this number.
    """
    with database.reading() as session:
        row = session.get(Inspection, number)
    if row is None:
        raise HTTPException(404, f"there is no inspection {number}")
    return row


def require_form(request: Request, form: str) -> None:
    """Check that a form comes from a page that this service gave to this visitor.

    Raises:
        HTTPException: the form comes from elsewhere.
    """
    if not service_of(request).keys.is_form_token(request, form):
        raise HTTPException(403, "this form is out of date: load the page again")


def is_script(request: Request) -> bool:
    """Whether the script of our page asks, which puts an answer into the page that is open."""
    return request.headers.get("hx-request") == "true"


def answered(request: Request, number: int) -> Response:
    """The reviews of an inspection as a fragment for a script, otherwise a redirect to its page."""
    if not is_script(request):
        return RedirectResponse(f"/inspections/{number}", 303)
    row = require(service_of(request).database, number)
    return rendered(request, "review.html", **reviewing(request, row))


@router.post("/inspections/{number}/review")
def review(
    request: Request,
    number: Number,
    verdict: Annotated[str, Form()],
    who: Annotated[str, Form()] = "",
    product: Annotated[str, Form()] = "",
    form: Annotated[str, Form()] = "",
) -> Response:
    """Store a person's review of a decision."""
    require_form(request, form)
    database = service_of(request).database
    inspected = require(database, number)
    if verdict not in (allowed := ALLOWED[inspected.label]):
        message = f"a decision {WORDS[inspected.label]!r} can be {', '.join(allowed)}"
        raise HTTPException(422, message)
    row = Review(
        inspection_id=number,
        verdict=verdict,
        product=(product or None) if verdict == "other_product" else None,
        who=name_of(who),
        when=time.time(),
    )
    with database.writing() as session:
        session.add(row)
    database.audit(row.who, "review", inspection=number, verdict=verdict)
    return answered(request, number)


@router.post("/reviews/{number}/undo")
def undo(
    request: Request,
    number: Number,
    who: Annotated[str, Form()] = "",
    form: Annotated[str, Form()] = "",
) -> Response:
    """Undo a review; the one before it counts again."""
    require_form(request, form)
    database = service_of(request).database
    with database.writing() as session:
        row = session.get(Review, number)
        if row is None:
            raise HTTPException(404, f"there is no review {number}")
        if row.applied_when is not None:
            raise HTTPException(
                409,
                "this review was already applied: roll the expert back with moleflow experts "
                "rollback",
            )
        row.undone_when = row.undone_when or time.time()
        inspection_number = row.inspection_id
    database.audit(name_of(who), "undo", review=number, inspection=inspection_number)
    return answered(request, inspection_number)


def name_of(who: str) -> str:
    """Normalise a reviewer's name for storage.

    Example:
        >>> name_of("  Ann "), name_of("")
        ('Ann', 'unnamed')
    """
    return "".join(letter for letter in who if letter.isprintable()).strip()[:LONGEST_WHO] or NOBODY


@router.get("/products")
def products(request: Request) -> Response:
    """Counts and alarm rates of the shift."""
    database = service_of(request).database
    rows = tallies(database, time.time() - 3600 * SHIFT_HOURS)
    return rendered(
        request, "products.html", here="products", rows=rows, hours=SHIFT_HOURS,
        drifts=drifts(database), jobs=jobs(database),
    )  # fmt: skip


@router.post("/products/{name}/drift")
def restart_drift(
    request: Request,
    name: str,
    who: Annotated[str, Form()] = "",
    form: Annotated[str, Form()] = "",
) -> Response:
    """Restart the chart of a product."""
    require_form(request, form)
    ask_restart(service_of(request).database, name, name_of(who))
    return RedirectResponse("/products", 303)


@router.get("/reviews")
def reviews(request: Request) -> Response:
    """The reviews that are not applied yet."""
    service = service_of(request)
    counted = counts(pending(service.database, service.store))
    away = elsewhere(service.database, service.store)
    return rendered(request, "reviews.html", here="reviews", counted=counted, away=away)


@router.get("/reviews/preview")
def preview(request: Request) -> Response:
    """What applying the reviews would change."""
    service = service_of(request)
    changes = preview_reviews(service.database, service.store, service.building)
    return rendered(request, "preview.html", preview=changes)


@router.post("/reviews/apply")
def apply(
    request: Request, who: Annotated[str, Form()] = "", form: Annotated[str, Form()] = ""
) -> Response:
    """Put new versions of the reviewed experts into the model."""
    require_form(request, form)
    service = service_of(request)
    names = apply_reviews(service.database, service.store, name_of(who), service.building)
    if not is_script(request):
        return RedirectResponse("/reviews", 303)
    return rendered(request, "preview.html", applied=names)
