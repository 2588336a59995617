"""All users: GET /users/export.

How a client knows that it has them all: the header `X-Last-Id` is the id of the last one, 0 where there is
none, and users come in the order of their ids. It costs one look at the index and no count, passes through
proxies, puts no line among the users that is none, and is held against the last line alone. Chunks without a
last chunk, which most clients report by themselves, say the same where no proxy mends them.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from svc.http.answers import CSV, NDJSON, encode_lines
from svc.http.headers import choose_media_type
from svc.http.operations import Operation
from svc.http.problems import Problem, unavailable
from svc.http.resource import Resource, Service
from svc.postgres.pool import Database
from svc.postgres.queries import Queries
from svc.postgres.queueing import Slots
from svc.users.scopes import READ
from svc.users.structs import USER_FIELDS, User

BLOCK = 1000
"""Users that are read at once, the most that the statement gives: 130 KB. With 250 an export moves less."""

FIRST = -(2**63)
"""Before every id, those that others put in included."""


class UserBlock(Struct, frozen=True):
    """Users as CSV, a line each, and the last one's id. Empty, and 0, for none."""

    users: str
    last: int


class ExportQueries(Queries, Protocol, file="user_export.sql"):
    """queries/user_export.sql"""

    async def get_last_id(self) -> int: ...
    async def export_users(self, *, after: int, limit: int) -> list[User]: ...
    async def export_users_as_csv(self, *, after: int, limit: int) -> UserBlock: ...


class Exporter:
    """The handler of exports. Each holds a connection, so a few are under way at a time."""

    def __init__(self, database: Database, slots: Slots, seconds: float) -> None:
        self.database = database
        self.slots = slots
        self.seconds = seconds

    async def export(self, request: Request) -> Response:
        """Answer all users by id, out of one snapshot, as NDJSON or as CSV (RFC 4180) with a header line."""
        media_type = choose_media_type(request, [NDJSON, CSV])
        if media_type is None:
            raise Problem(406, f"There is {NDJSON} and {CSV}")
        return Export(request, media_type, self)


class Export(Response):
    """Goes out block by block.

    It holds a snapshot, which keeps dead rows in all tables. So a client that reads too slowly is cut off
    (MIN_READ_RATE in svc/http/protocol.py), and any after SVC_TRANSFER_TIMEOUT.
    """

    def __init__(self, request: Request, media_type: str, exporter: Exporter) -> None:
        self.background = None
        self._request = request
        self._media_type = media_type
        self._exporter = exporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all users. Raises ClientDisconnect where nobody reads on, Problem where it takes too long."""
        try:
            with self._exporter.slots.acquire(scope.get("key_id")):
                async with asyncio.timeout(self._exporter.seconds):
                    await self._send(scope, send)
        except TimeoutError:
            raise unavailable("The export took too long", "query-timeout") from None
        await send({"type": "http.response.body"})

    async def _send(self, scope: Scope, send: Send) -> None:
        async with self._exporter.database.transaction(ExportQueries, snapshot=True) as queries:
            last = await queries.get_last_id()
            await send({"type": "http.response.start", "status": 200, "headers": self._make_head(last)})
            if scope["method"] != "HEAD":
                await self._send_users(queries, send)

    def _make_head(self, last: int) -> list[tuple[bytes, bytes]]:
        suffix = b"csv" if self._media_type == CSV else b"ndjson"
        return [
            (b"content-type", self._media_type.encode()),
            (b"vary", b"accept"),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-disposition", b'attachment; filename="users.%b"' % suffix),
            (b"x-last-id", b"%d" % last),
        ]

    async def _send_users(self, queries: ExportQueries, send: Send) -> None:
        read = read_users_as_csv if self._media_type == CSV else read_users
        async for part in read(queries):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if await self._request.is_disconnected():
                raise ClientDisconnect


async def read_users(queries: ExportQueries) -> AsyncIterator[bytes]:
    """Yield all users as NDJSON, a block at a time."""
    after = FIRST
    while users := await queries.export_users(after=after, limit=BLOCK):
        yield encode_lines(users)
        after = users[-1].id


async def read_users_as_csv(queries: ExportQueries) -> AsyncIterator[bytes]:
    """Yield the same as CSV, which PostgreSQL writes."""
    yield ",".join(USER_FIELDS[:-1]).encode() + b"\r\n"
    after = FIRST
    while (block := await queries.export_users_as_csv(after=after, limit=BLOCK)).users:
        yield (block.users + "\r\n").encode()
        after = block.last


def build(service: Service) -> Resource:
    """Return the resource of exports."""
    exporter = Exporter(service.database, Slots(service.config), service.config.transfer_timeout)
    export = Operation("GET", "/users/export", exporter.export, {200: User}, READ, problems=(406,))
    return Resource(operations=[export], queries=[ExportQueries])
