"""Reads images from request bodies, whose sizes and times `BodyLimits` limits."""

from __future__ import annotations

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from moleflow_pl.service.line import Upload

DAMAGED = 400  # Starlette's status for an invalid form
FIELDS = 16  # of a form, beside its files


async def read_uploads(
    request: Request, max_bytes: int, most: int
) -> tuple[list[Upload], dict[str, str] | None]:
    """Read the images of a request.

    Args:
        request: The request.
        max_bytes: Largest file of a form.
        most: Largest number of files.

    Returns:
        The images, and the other fields of the form that they came as; None without a form.

    Raises:
        HTTPException: a file is too large, or the body is damaged.
    """
    try:
        if is_form(request.headers.get("content-type", "")):
            return await read_form(request, max_bytes, most)
        return [Upload(await request.body(), request.query_params.get("name", ""))], None
    except ClientDisconnect as error:
        raise HTTPException(400, "the client disconnected") from error


def is_form(kind: str) -> bool:
    """Whether a body of this content type is a form with files."""
    return kind.startswith("multipart/form-data")


async def read_form(
    request: Request, max_bytes: int, most: int
) -> tuple[list[Upload], dict[str, str]]:
    """Read all files of a form, whatever their fields are called, and its text fields.

    Raises:
        HTTPException: there are no files or too many, one is too large, or the form is invalid.
    """
    try:
        async with request.form(max_files=most, max_fields=FIELDS) as fields:
            files = [value for _, value in fields.multi_items() if isinstance(value, UploadFile)]
            if any((file.size or 0) > max_bytes for file in files):
                raise HTTPException(413, too_large(max_bytes))
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


def too_large(size: int) -> str:
    """The reason why a body or a file is refused."""
    return f"it is larger than {size} bytes (images: --max-mb)"
