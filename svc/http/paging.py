"""Keyset pages: a cursor says where one ended, and a Link header leads to the next.

A query for a page asks for one row more than the page has. Where that row comes, there is a next page, and
the cursor is the position of the last row that is shown. Nothing is counted and nothing is skipped: the ten
millionth row is as near as the first.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Generic, NamedTuple, Protocol, Self, TypeVar
from urllib.parse import quote, unquote

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.http.answers import answer
from svc.http.operations import FastRoute
from svc.http.parsing import invalid_query, read_plain_query, read_query
from svc.http.problems import Problem
from svc.postgres.batching import PageBatcher
from svc.postgres.queueing import Callback, Limits

P = TypeVar("P", bound=Struct)
R = TypeVar("R")

UNTOUCHED = "%&=+,:;@!$'()*/?"
"""What may stand in a query as it is (RFC 3986, 3.4), besides letters, digits and `_.-~`."""


class PageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What every list is asked for: how many rows, and where the page before ended."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: str | None = None


class IdPosition(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a page ends that is in the order of ids: the id of its last row."""

    id: int = 0

    @classmethod
    def of(cls, row: Any) -> Self:
        """Return a row's."""
        return cls(row.id)


def read_position(cursor: str | None, list_: object, type_: type[P]) -> P:
    """Return where the page before ended; for no cursor a position of defaults, before the first row.

    `list_` is the list's order and filters. Raises Problem 422 for a cursor that is not of this list.
    """
    if cursor is None:
        return type_()
    position = read_cursor(cursor, list_, type_)
    if position is None:
        raise foreign_cursor()
    return position


def foreign_cursor() -> Problem:
    """Return a 422 for a cursor of another list."""
    return invalid_query({"cursor": "Not a cursor of this list: sort and filters must stay the same"})


class Target(NamedTuple):
    """What a request asks for, as it was written: the path, and the query without its `?`."""

    path: str
    query: bytes

    @classmethod
    def of(cls, request: Request) -> Self:
        """Return a request's."""
        return cls(request.scope["raw_path"].decode(), request.scope["query_string"])


Asked = tuple[PageQuery, Target]


def end_page(
    rows: list[R],
    limit: int,
    target: Target,
    list_: object,
    find_position: Callable[[R], Struct] = IdPosition.of,
) -> tuple[str | None, bytes]:
    """Take the row too many off the end of a page; return the next page's cursor, and the line of its Link.

    None and nothing for the last page. The position of a row is its id unless said otherwise.
    """
    if len(rows) <= limit:
        return None, b""
    del rows[limit:]
    cursor = write_cursor(list_, find_position(rows[-1]))
    return cursor, link_next(target, cursor)


def write_cursor(list_: object, position: Struct) -> str:
    """Return an opaque position in a list, of no use in another: `list_` is its order and its filters."""
    return seal(list_, msgspec.msgpack.encode(position))


def read_cursor(cursor: str, list_: object, type_: type[P]) -> P | None:
    """Return the position that a cursor holds; None where it is no cursor of this list."""
    try:
        content = urlsafe_b64decode(cursor.encode("ascii") + b"==")[8:]
        return msgspec.msgpack.decode(content, type=type_) if cursor == seal(list_, content) else None
    except (ValueError, RecursionError, msgspec.DecodeError):  # not ASCII, not base64, no position
        return None


def seal(list_: object, content: bytes) -> str:
    """Tie a position to its list. No secret is in it: a forged one shows nothing that paging hides."""
    tag = blake2b(content, digest_size=8, key=find_key(repr(list_))).digest()
    return urlsafe_b64encode(tag + content).rstrip(b"=").decode()


@lru_cache
def find_key(list_: str) -> bytes:
    """Return what the positions of a list are sealed with."""
    return blake2b(list_.encode()).digest()


def link_next(target: Target, cursor: str) -> bytes:
    """Return the line of a `Link` to the next page (RFC 8288).

    It is relative, so that it holds behind any proxy. The query stays as it came, but for its cursor: to
    parse and write it anew takes 20 µs.
    """
    query = quote(target.query, safe=UNTOUCHED)
    kept = [part for part in query.split("&") if part and unquote(part.partition("=")[0]) != "cursor"]
    kept.append(f"cursor={cursor}")
    return f'link: <{target.path}?{"&".join(kept)}>; rel="next"\r\n'.encode("latin-1")


class IdPage(Struct, frozen=True):
    """A page in the order of ids as a statement is asked for it: the id before it, the rows it may have."""

    after: int
    size: Annotated[int, Meta(ge=1, le=1001)]


class FetchPages(Protocol[R]):
    """A query for the rows of several pages, and of each one more where there is a next page."""

    def __call__(self, *, pages: list[IdPage]) -> Awaitable[list[list[R]]]: ...


class IdList(Generic[R]):
    """A list in the order of ids: its handler, and the fast route that answers the same.

    `show` makes the answer of the rows and the next page's cursor.
    """

    def __init__(
        self, path: str, limits: Limits, fetch: FetchPages[R], show: Callable[[list[R], str | None], Struct]
    ) -> None:
        self._path = path
        self._show = show
        self._pages = PageBatcher[IdPage, R](limits, lambda pages: fetch(pages=pages))
        self.fast = FastRoute(self._parse, self._submit, self._answer)

    async def get(self, request: Request) -> Response:
        """Answer a page, and the way to the next one."""
        asked = read_query(request, PageQuery), Target.of(request)
        page = self._place(asked)
        return self._answer(asked, await self._pages.find_lane(page).get(page))

    def _parse(self, query_string: bytes) -> Asked | None:
        query = read_plain_query(query_string, PageQuery)
        return (query, Target(self._path, query_string)) if query else None

    def _submit(self, asked: Asked, callback: Callback[list[R]]) -> None:
        page = self._place(asked)
        self._pages.find_lane(page).submit(page, callback)

    def _place(self, asked: Asked) -> IdPage:
        position = read_position(asked[0].cursor, self._path, IdPosition)
        return IdPage(position.id, asked[0].limit + 1)

    def _answer(self, asked: Asked, rows: list[R] | None) -> Response:
        query, target = asked
        rows = rows or []
        cursor, link = end_page(rows, query.limit, target, self._path)
        return answer(self._show(rows, cursor), lines=link)
