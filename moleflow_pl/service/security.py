"""Access control: tokens, hosts, origins, rate limits, and security headers."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moleflow_pl.service.metrics import Metrics

OPEN = ("/healthz", "/readyz", "/login")  # without a token
STATIC = "/static/"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SESSION, VISIT = "moleflow_session", "moleflow_visit"  # cookies
OWN_HOSTS = ("127.0.0.1", "localhost", "::1")
MOST_CLIENTS = 10_000  # clients whose rates are tracked
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Keys:
    """Tokens derived from the service's secret, which all its processes share.

    Args:
        secret: Random text that the database stores.
        token: The secret that clients send; None if all clients on this machine are allowed.
    """

    def __init__(self, secret: str, token: str | None) -> None:
        self._secret, self.token = secret.encode(), token

    def _derived(self, *parts: str) -> str:
        return hmac.new(self._secret, "\0".join(parts).encode(), "sha256").hexdigest()

    @property
    def session(self) -> str:
        """The value of the cookie that stands for the token."""
        return self._derived("session", self.token or "")

    def may_ask(self, connection: HTTPConnection) -> bool:
        """Whether a request carries the token or its cookie, or no token is set."""
        if self.token is None:
            return True
        scheme, _, value = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(value):
            return True
        cookie = connection.cookies.get(SESSION, "")
        return hmac.compare_digest(cookie.encode(), self.session.encode())

    def is_token(self, value: str) -> bool:
        """Whether a text is the token, compared in constant time."""
        return hmac.compare_digest(value.strip().encode(), (self.token or "").encode())

    def form_token(self, connection: HTTPConnection) -> str:
        """The value of the hidden field in this visitor's forms."""
        return self._derived("form", visit_of(connection))

    def is_form_token(self, connection: HTTPConnection, value: str) -> bool:
        """Whether a form comes from a page that this visitor loaded from us."""
        right = self.form_token(connection)
        known = VISIT in connection.cookies
        return known and hmac.compare_digest(value.encode(), right.encode())


def visit_of(connection: HTTPConnection) -> str:
    """The visitor's identifier: from the cookie, or the one that the response will set."""
    return connection.cookies.get(VISIT) or connection.scope.get("moleflow.visit", "")


class Rates:
    """Rate limits by client: token buckets that refill at `rate` per second.

    A package such as slowapi limits single routes, by decorators. Here one limit holds for all, and
    `Guard` applies it before a body is read; a bucket takes a few lines.

    Args:
        rate: Requests per second; a burst may have twice as many.
    """

    def __init__(self, rate: float) -> None:
        self.rate, self.burst = rate, max(2 * rate, 1.0)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allow(self, client: str) -> bool:
        """Count a request; return whether it is allowed."""
        now = time.monotonic()
        with self._lock:
            left, last = self._buckets.pop(client, (self.burst, now))
            left = min(self.burst, left + (now - last) * self.rate)
            self._buckets[client] = (max(left - 1, 0.0), now)
            if len(self._buckets) > MOST_CLIENTS:
                self._buckets.popitem(last=False)
        return left >= 1


class Guard:
    """Middleware that checks each request before the application.

    Args:
        app: The application.
        keys: The service's keys.
        rate: Requests per second of one client.
        metrics: Where refusals are counted.
    """

    def __init__(self, app: ASGIApp, keys: Keys, rate: float, metrics: Metrics) -> None:
        self.app, self.keys, self.rates, self.metrics = app, keys, Rates(rate), metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        new_visit = VISIT not in connection.cookies
        if new_visit:
            scope["moleflow.visit"] = secrets.token_hex(16)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if new_visit and headers.get("content-type", "").startswith("text/html"):
                    cookie = f"{VISIT}={scope['moleflow.visit']}; Path=/; HttpOnly; SameSite=Strict"
                    headers.append("set-cookie", cookie)
            await send(message)

        refusal = self._refusal(connection)
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        """The response to a refused request; None if it is allowed."""
        client = connection.client.host if connection.client else ""
        if not self.rates.allow(client):
            return self._refuse("rate", 429, "too many requests (--rate)", {"retry-after": "1"})
        if self.keys.token is None and not is_own_host(connection.headers):
            # DNS rebinding: a foreign name that was made to point here
            return self._refuse("host", 421, "the service answers to 127.0.0.1 and localhost alone")
        method, path = connection.scope["method"], connection.scope["path"]
        if method not in SAFE_METHODS and is_foreign(connection.headers):
            return self._refuse("origin", 403, "this request was sent by a page of another site")
        if path in OPEN or path.startswith(STATIC) or self.keys.may_ask(connection):
            return None
        if method == "GET" and "text/html" in connection.headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        detail = "send the token: Authorization: Bearer …"
        return self._refuse("token", 401, detail, {"www-authenticate": "Bearer"})

    def _refuse(
        self, reason: str, status: int, detail: str, headers: dict[str, str] | None = None
    ) -> Response:
        self.metrics.refused.labels(reason).inc()
        return JSONResponse({"detail": detail}, status, headers)


def is_own_host(headers: Headers) -> bool:
    """Whether a request was sent to this machine by one of its own names."""
    return urlsplit(f"//{headers.get('host', '')}").hostname in OWN_HOSTS


def is_foreign(headers: Headers) -> bool:
    """Whether a browser sent a request for a page of another site."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    return urlsplit(origin).netloc != headers.get("host")
