"""Limits for the bodies of all requests: of each in bytes and seconds, and of all together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moleflow_pl.service.settings import Settings
from moleflow_pl.service.uploads import is_form, too_large

FORM_BYTES = 2**16  # of a form without files
LARGEST_FORM = 4  # as a multiple of the limit for an image
INSPECTED = ("/v1/inspect", "/inspect")
PRODUCT_SECONDS = 600.0  # for the images of a product


@dataclass(frozen=True)
class Limit:
    """The limit of a body.

    Attributes:
        size: Most bytes.
        seconds: Within which it must arrive.
    """

    size: int
    seconds: float


class BodyLimits:
    """Middleware that limits bodies, and the memory that all of them need at the same time.

    A body counts from its first byte until its request is answered. A client that sends nothing
    takes no room from others.

    Args:
        app: The application.
        settings: The sizes and the deadline.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.room = max(settings.queue, 2 * LARGEST_FORM) * settings.max_bytes
        self.held = 0
        self.usual, self.limits = Limit(FORM_BYTES, settings.deadline), limits_of(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(scope["path"], headers.get("content-type", ""))
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > limit.size):
            await JSONResponse({"detail": too_large(limit.size)}, 413)(scope, receive, send)
            return
        body = Body(self, limit, receive)
        try:
            await self.app(scope, body.receive, send)
        finally:
            self.held -= body.size

    def _limit(self, path: str, kind: str) -> Limit:
        """The limit of a body, which is one image unless it is a form."""
        if path in INSPECTED and not is_form(kind):
            return Limit(self.settings.max_bytes, self.settings.deadline)
        return self.limits.get(path, self.usual)


class Body:
    """A body that arrives.

    Args:
        limits: Counts all bodies.
        limit: Of this one.
        receive: Returns its parts.
    """

    def __init__(self, limits: BodyLimits, limit: Limit, receive: Receive) -> None:
        self.limits, self.limit, self._receive = limits, limit, receive
        self.size, self._complete = 0, False
        self._due = asyncio.get_running_loop().time() + limit.seconds

    async def receive(self) -> Message:
        """The next part; afterwards whatever the server sends.

        Raises:
            HTTPException: the body is too large or too slow, or there is no room for it.
        """
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._due):
                message = await self._receive()
        except TimeoutError as error:
            reason = f"the request did not arrive within {self.limit.seconds:g} s"
            raise HTTPException(408, reason) from error
        self._count(len(message.get("body", b"")))
        self._complete = not message.get("more_body", False)
        return message

    def _count(self, size: int) -> None:
        if self.size + size > self.limit.size:
            raise HTTPException(413, too_large(self.limit.size))
        if self.limits.held + size > self.limits.room:
            reason = "the memory for request bodies is full: try again later"
            raise HTTPException(429, reason, {"retry-after": "1"})
        self.size += size
        self.limits.held += size


def limits_of(settings: Settings) -> Mapping[str, Limit]:
    """The limits of paths that take images."""
    images = Limit(LARGEST_FORM * settings.max_bytes, settings.deadline)
    product = Limit(max(LARGEST_FORM, settings.queue // 2) * settings.max_bytes, PRODUCT_SECONDS)
    return {**dict.fromkeys(INSPECTED, images), "/v1/products": product, "/products": product}
