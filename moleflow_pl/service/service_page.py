"""The page of the service itself: its sources, sinks and other parts, and its model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from moleflow_pl.service.models import newest
from moleflow_pl.service.page import rendered
from moleflow_pl.service.parts import is_silent, parts
from moleflow_pl.service.state import service_of
from moleflow_pl.service.tables import Part

KINDS = {"sources": "Source", "sinks": "Sink", "versions": "Model", "background": "Background"}
# classes of the colours and shapes of drift
STATES = {"works": "steady", "silent": "warning", "fails": "drift"}

router = APIRouter(include_in_schema=False)


def state_of(part: Part) -> str:
    """The word for the state of a part."""
    if is_silent(part):
        return "silent"
    return "works" if part.ok else "fails"


def shown(request: Request) -> dict[str, Any]:
    """The parts of all processes, in the order of `KINDS`."""
    found = parts(service_of(request).database)
    order = list(KINDS)
    rows = sorted(found, key=lambda part: order.index(part.kind))
    return {"rows": [(KINDS[p.kind], state_of(p), p) for p in rows], "classes": STATES}


@router.get("/service")
def service_page(request: Request) -> Response:
    """The parts and the model."""
    with service_of(request).database.reading() as session:
        model = newest(session)
    return rendered(request, "service.html", here="service", model=model, **shown(request))


@router.get("/service/parts")
def parts_part(request: Request) -> Response:
    """The parts alone, for the page that is open."""
    return rendered(request, "service_parts.html", **shown(request))
