"""The application that uvicorn serves."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

from fastapi import FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError, TimeoutError
from starlette.staticfiles import StaticFiles

from moleflow_pl import __version__
from moleflow_pl._internal.printable import printable_lines
from moleflow_pl.errors import ConfigError, DataError, MoLEFlowError, OutputError
from moleflow_pl.service import page, product_page, service_page
from moleflow_pl.service.body_limits import BodyLimits
from moleflow_pl.service.database import reason_of
from moleflow_pl.service.engine import DeadlineError, QueueFullError, StoppingError
from moleflow_pl.service.locks import BusyError
from moleflow_pl.service.routes import router
from moleflow_pl.service.security import SESSION, Guard
from moleflow_pl.service.state import Service, service_of

logger = logging.getLogger(__name__)

SETTINGS = "MOLEFLOW_SERVE"  # variable of the processes of `--workers`
THREADS = 32  # for calls that block, such as those of the database
TEMPLATES = Path(__file__).parent / "templates"
# (error, status, seconds until a retry makes sense); the first match counts
STATUSES: tuple[tuple[type[Exception], int, int | None], ...] = (
    (QueueFullError, 429, 1),
    (StoppingError, 503, 5),
    (DeadlineError, 504, None),
    (BusyError, 409, 5),
    (DataError, 422, None),
    (ConfigError, 422, None),
    (OutputError, 503, 5),
    (MoLEFlowError, 500, None),
)

pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)


def make_app(service: Service) -> FastAPI:
    """Return the application of a service; it starts and stops the service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        threads = ThreadPoolExecutor(THREADS, "service")
        asyncio.get_running_loop().set_default_executor(threads)
        with refusing_after_sigterm(service):
            service.start()
            yield
        await service.stop()

    app = FastAPI(
        title="MoLE-Flow", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.service = service
    for routes in (router, page.router, product_page.router, service_page.router):
        app.include_router(routes)
    app.mount("/static", StaticFiles(directory=page.STATIC), "static")
    app.add_api_route("/docs", docs, include_in_schema=False, response_class=HTMLResponse)
    app.add_api_route("/login", login_page, include_in_schema=False, response_class=HTMLResponse)
    app.add_api_route("/login", login, methods=["POST"], include_in_schema=False)
    app.add_exception_handler(MoLEFlowError, answer_error)
    app.add_exception_handler(SQLAlchemyError, answer_database_error)
    app.add_middleware(BodyLimits, settings=service.settings)
    keys, rate = service.keys, service.settings.rate
    app.add_middleware(Guard, keys=keys, rate=rate, metrics=service.metrics)
    return app


@contextmanager
def refusing_after_sigterm(service: Service) -> Iterator[None]:
    """Refuse new requests after SIGTERM, while the server finishes those it has accepted."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python sends signals to the main thread alone
        return
    before = signal.getsignal(signal.SIGTERM)  # the server's

    def stop(signum: int, frame: FrameType | None) -> None:
        service.line.stopping = True
        if callable(before):
            before(signum, frame)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def answer_error(request: Request, error: Exception) -> Response:
    """Return an error as a JSON response with its status."""
    kind, status, seconds = next(row for row in STATUSES if isinstance(error, row[0]))
    service_of(request).metrics.refused.labels(kind.__name__.removesuffix("Error").lower()).inc()
    headers = {} if seconds is None else {"retry-after": str(seconds)}
    return JSONResponse({"detail": printable_lines(error)}, status, headers)


async def answer_database_error(request: Request, error: Exception) -> Response:
    """Return an error of the database as that of a service that is unavailable for now."""
    assert isinstance(error, SQLAlchemyError)
    failure = OutputError(f"cannot use the database: {reason_of(error)}")
    passing = isinstance(error, (OperationalError, InterfaceError, TimeoutError))
    logger.warning("%s %s: %s", request.method, request.url.path, failure, exc_info=not passing)
    return await answer_error(request, failure)


async def docs(request: Request) -> HTMLResponse:
    """The documentation of the HTTP API, on a page that needs no network."""
    text = pages.get_template("api.html").render(api=request.app.openapi())
    return HTMLResponse(text)


async def login_page(request: Request) -> HTMLResponse:
    """Ask for the token."""
    keys = service_of(request).keys
    return HTMLResponse(pages.get_template("login.html").render(form=keys.form_token(request)))


def login(request: Request, token: str = Form(""), form: str = Form("")) -> Response:
    """Check the token of a person, and set a cookie that stands for it."""
    service, client = service_of(request), request.client.host if request.client else ""
    if not service.logins.allow(client):
        raise HTTPException(429, "too many attempts", {"retry-after": "1"})
    if not service.keys.is_form_token(request, form) or not service.keys.is_token(token):
        service.database.audit(client, "token refused")
        text = pages.get_template("login.html").render(
            form=service.keys.form_token(request), refused=True
        )
        return HTMLResponse(text, 401)
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(
        SESSION, service.keys.session, httponly=True, samesite="strict", secure=secure
    )
    return answer
