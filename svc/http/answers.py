"""Answers: structs as JSON, with a version or a way to the next page, and problems as problem documents."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from svc.http.headers import format_etag, matches_if_match, matches_if_none_match
from svc.http.problems import Problem, not_changed, not_found

NDJSON = "application/x-ndjson"
CSV = "text/csv"

encode = msgspec.json.Encoder().encode
encode_lines = msgspec.json.Encoder().encode_lines


class JsonResponse(Response):
    """A response whose head is made in one go: Starlette's own way costs 3 µs more.

    `lines` are the lines of all its headers; they go out as they are where no ASGI is in between.
    """

    def __init__(self, body: bytes, status: int, lines: bytes) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.lines = b"content-type: application/json\r\ncontent-length: %d\r\n%b" % (len(body), lines)

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        """The same headers as ASGI has them."""
        fields = [line.partition(b": ") for line in self.lines.split(b"\r\n")[:-1]]
        return [(name, value) for name, _, value in fields]


NO_STORE = b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
PRIVATE = b"cache-control: private, no-cache\r\nx-content-type-options: nosniff\r\n"
"""What caches may do with an answer (RFC 9111, 5.2.2): nothing; or ask each time, where it has a version."""


def answer(content: object, status: int = 200, lines: bytes = b"") -> JsonResponse:
    """Return a struct as JSON; `lines` are those of more headers, each with its end."""
    return JsonResponse(encode(content), status, NO_STORE + lines)


def answer_version(content: object, version: int, status: int = 200, lines: bytes = b"") -> JsonResponse:
    """Return a struct as JSON with the strong entity tag of its version (RFC 9110, 8.8.3)."""
    return JsonResponse(encode(content), status, b'etag: "%d"\r\n%b%b' % (version, PRIVATE, lines))


class Versioned(Protocol):
    """A row that has a version, which each change of it raises."""

    @property
    def version(self) -> int:
        """From 1 up."""
        ...


V = TypeVar("V", bound=Versioned)


def identity(row: V) -> V:
    """Return the row itself: it has nothing that clients may not see."""
    return row


def answer_found(
    row: V | None, what: str, request: Request | None = None, show: Callable[[V], object] = identity
) -> Response:
    """Return what `show` makes of a row, with its version. Raises Problem 404 where there is none.

    With the request, it is a 304 where the client has this version already (RFC 9110, 13.1.2).
    """
    if row is None:
        raise not_found(what)
    if request and not matches_if_match(request, row.version):
        raise not_changed(row, what)
    if request and matches_if_none_match(request, row.version):
        headers = {"ETag": format_etag(row.version), "Cache-Control": "private, no-cache"}
        return Response(status_code=304, headers=headers)
    return answer_version(show(row), row.version)


async def answer_changed(
    row: V | None,
    what: str,
    find_current: Callable[[], Awaitable[object | None]],
    show: Callable[[V], object] = identity,
) -> Response:
    """Return what `show` makes of a row after its change, with its new version.

    Raises Problem where the change found no row: 412 where it is there in another version, else 404.
    """
    if row is None:
        raise not_changed(await find_current(), what)
    return answer_version(show(row), row.version)


async def answer_deleted(
    count: int, what: str, find_current: Callable[[], Awaitable[object | None]]
) -> Response:
    """Return a 204 where a row was deleted. Raises Problem as `answer_changed` does."""
    if not count:
        raise not_changed(await find_current(), what)
    return Response(status_code=204)


def answer_created(content: object, location: str, version: int) -> JsonResponse:
    """Return a 201 with where the new resource is and its version."""
    return answer_version(content, version, 201, f"location: {location}\r\n".encode())


def answer_problem(problem: Problem, request_id: bytes) -> Response:
    """Return a problem document."""
    return Response(
        encode(problem.document(request_id.decode())),
        problem.status,
        {**problem.headers, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        "application/problem+json",
    )
