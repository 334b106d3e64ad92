"""Reads request bodies within limits: one image, or a form with several."""

from __future__ import annotations

import asyncio

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from moleflow_pl.service.line import Upload

FORM = "multipart/form-data"
LARGEST_FORM = 4  # as a multiple of the limit for an image
DAMAGED = 400  # Starlette's status for an invalid form
FIELDS = 16  # of a form, beside its files


async def read_uploads(
    request: Request, max_bytes: int, most: int, deadline: float
) -> tuple[list[Upload], dict[str, str] | None]:
    """Read the images of a request.

    Args:
        request: The request.
        max_bytes: Largest file.
        most: Largest number of files.
        deadline: Seconds within which the body must arrive.

    Returns:
        The images, and the other fields of the form that they came as; None without a form.

    Raises:
        HTTPException: the body is too large, too slow, or damaged.
    """
    form = request.headers.get("content-type", "").startswith(FORM)
    try:
        async with asyncio.timeout(deadline):
            if form:
                return await read_form(request, max_bytes, most)
            name = request.query_params.get("name", "")
            return [Upload(await read_body(request, max_bytes), name)], None
    except TimeoutError as error:
        message = f"the request did not arrive within {deadline:g} s"
        raise HTTPException(408, message) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client disconnected") from error


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body that is an image.

    Raises:
        HTTPException: the body is too large.
    """
    check_length(request, max_bytes)
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > max_bytes:
            raise too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


async def read_form(
    request: Request, max_bytes: int, most: int
) -> tuple[list[Upload], dict[str, str]]:
    """Read all files of a form, whatever their fields are called, and its text fields.

    Raises:
        HTTPException: there are no files or too many, they are too large, or the form is invalid.
    """
    largest = LARGEST_FORM * max_bytes
    check_length(request, largest)
    total = 0

    async def receive() -> Message:
        nonlocal total
        message = await request.receive()
        total += len(message.get("body", b""))
        if total > largest:
            raise too_large(largest)
        return message

    try:
        limited = Request(request.scope, receive)
        async with limited.form(max_files=most, max_fields=FIELDS) as fields:
            files = [value for _, value in fields.multi_items() if isinstance(value, UploadFile)]
            if any((file.size or 0) > max_bytes for file in files):
                raise too_large(max_bytes)
            uploads = [Upload(await file.read(), file.filename or "") for file in files]
            texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    except HTTPException as error:  # Starlette has turned its own error into 400
        if error.status_code != DAMAGED:
            raise
        raise HTTPException(422, f"the form cannot be read: {error.detail}") from error
    except (MultiPartException, ValueError) as error:
        raise HTTPException(422, f"the form cannot be read: {error}") from error
    if not uploads:
        raise HTTPException(422, "the form holds no file: send each image as a file of the form")
    return uploads, texts


def check_length(request: Request, largest: int) -> None:
    """Check the length that a request declares.

    Raises:
        HTTPException: the body is too large.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > largest:
        raise too_large(largest)


def too_large(largest: int) -> HTTPException:
    """The error for a body that is too large."""
    return HTTPException(413, f"it is larger than {largest} bytes (--max-mb)")
