"""The body of a request."""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from moleflow_pl.service.uploads import read_uploads

KIND = "multipart/form-data; boundary=x"
END = b"--x--\r\n"
FORM = b'--x\r\ncontent-disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n'


def request(parts: Sequence[bytes], kind: str = "image/png") -> Request:
    """A request whose body comes in parts."""
    messages = [
        {"type": "http.request", "body": part, "more_body": i + 1 < len(parts)}
        for i, part in enumerate(parts)
    ]
    left = iter(messages)

    async def receive() -> dict:
        return next(left, {"type": "http.disconnect"})

    headers = [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": "POST", "query_string": b"name=a", "headers": headers}
    return Request(scope, receive)


def read(request: Request, max_bytes: int = 10, most: int = 3) -> tuple[list, dict | None]:
    return asyncio.run(read_uploads(request, max_bytes, most))


def test_a_body_is_one_image_with_the_name_of_the_query() -> None:
    uploads, form = read(request([b"12", b"345"]))
    assert ([(one.content, one.name) for one in uploads], form) == ([(b"12345", "a")], None)


def test_all_files_of_a_form_are_taken_whatever_their_fields_are_called() -> None:
    body = FORM % (b"a", b"1.png", b"one") + FORM % (b"b", b"2.png", b"two") + END
    uploads, form = read(request([body], KIND), 100)
    assert [(one.name, one.content) for one in uploads] == [("1.png", b"one"), ("2.png", b"two")]
    assert form == {}


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (lambda: request([FORM % (b"a", b"1", bytes(30)), END], KIND), 413),
        (lambda: request([END], KIND), 422),
        (lambda: request([b"??"], KIND), 422),
    ],
)  # fmt: skip
def test_what_is_too_large_or_damaged_is_refused(asked: object, status: int) -> None:
    with pytest.raises(HTTPException) as error:
        read(asked())  # type: ignore[operator]
    assert error.value.status_code == status


def test_more_files_than_may_wait_are_refused() -> None:
    body = b"".join(FORM % (b"a", b"%d" % i, b"x") for i in range(4)) + END
    with pytest.raises(HTTPException) as error:
        read(request([body], KIND), 1000)
    assert error.value.status_code == 422
    assert "Maximum number of files is 3" in error.value.detail
