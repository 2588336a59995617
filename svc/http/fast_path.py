"""Short cuts: the plainest GET of one row, answered by the protocol itself.

No parser, no ASGI, no task, no future. What is not just that form, byte by byte, goes to uvicorn's code
unread and unchanged; either way the answer is the same. docs/fast-path.md tells how it works, what
it guarantees and what it gives up.
"""

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from starlette.responses import Response

from svc.http.answers import JsonResponse
from svc.http.authentication import Authenticator
from svc.http.headers import REQUEST_ID, make_request_id
from svc.http.logs import log_request
from svc.http.middleware import ErrorHandler
from svc.http.operations import FastRoute, Operation
from svc.http.protocol import GuardedProtocol
from svc.http.transport import frame, join_lines
from svc.postgres.errors import OverloadedError

HEAD = re.compile(rb"HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)*\r\n")
"""What follows the target: the version, header lines as RFC 9112 has them, in ASCII, and the empty line."""

CHANGING = frozenset(
    b"""content-length transfer-encoding expect upgrade te trailer proxy-connection http2-settings keep-alive
    if-match if-none-match if-modified-since if-unmodified-since if-range range prefer""".split()
)
"""Headers that change the answer, or what comes after it."""

PLAIN = {b"connection": b"keep-alive", b"accept": b"*/*"}
"""Headers that change nothing as long as they have this value."""


class Plain(Struct, frozen=True, gc=False):
    """The headers of a plain request: whose it is, and its id where the client gave it one."""

    token: bytes
    request_id: bytes | None


class Way(Struct, frozen=True, gc=False):
    """A short cut, and the scope that it needs."""

    cut: FastRoute[Any, Any]
    scope: str | None


class Asked(Struct, frozen=True, gc=False):
    """A request that is being answered: what it asks, and how; its id, its target, when it came."""

    what: Any
    cut: FastRoute[Any, Any]
    request_id: bytes
    target: bytes
    started: float


class ShortCuts:
    """The short cuts of an app's operations, by what a request begins with: `GET /users/`, `GET /users?`.

    The authenticator tells without waiting whether a token may do what a scope names.
    """

    MOST_HEADS = 1000
    LONGEST_HEAD = 2048  # less than the least SVC_MAX_HEAD

    def __init__(
        self,
        operations: Iterable[Operation],
        authenticator: Authenticator | None,
        errors: ErrorHandler,
        *,
        log_requests: bool,
    ) -> None:
        self._by_id: dict[bytes, Way] = {}
        self._by_query: dict[bytes, Way] = {}
        for operation in operations:
            if operation.fast:
                folder, _, end = operation.path.rpartition("/")
                ways = self._by_id if end == "{id}" else self._by_query
                path = folder if end == "{id}" else operation.path
                ways[path.encode()] = Way(operation.fast, operation.scope)
        self._knows = authenticator.allows if authenticator else allows_nobody
        self.errors = errors
        self._heads: dict[bytes, Plain] = {}
        self._defaults: tuple[object, bytes] = None, b""
        self.log_requests = log_requests

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._by_id or self._by_query)

    def match(self, data: bytes) -> Asked | None:
        """What a plain request asks; None for any other."""
        parts = data.split(b" ", 2)
        if len(parts) < 3 or parts[0] != b"GET":
            return None
        _, target, rest = parts
        folder, _, end = target.rpartition(b"/")
        way = self._by_id.get(folder)
        if way is None:
            path, _, end = target.partition(b"?")
            way = self._by_query.get(path)
        if way is None or (what := way.cut.parse(end)) is None:
            return None
        plain = self._heads.get(rest) or self._read_head(rest)
        if plain is None or (way.scope and not self._knows(plain.token, way.scope)):
            return None
        started = time.perf_counter() if self.log_requests else 0.0
        return Asked(what, way.cut, plain.request_id or make_request_id(), target, started)

    def join_defaults(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The lines of uvicorn's own headers, which are other ones each second."""
        if headers is not self._defaults[0]:
            self._defaults = headers, join_lines(headers)
        return self._defaults[1]

    def _read_head(self, head: bytes) -> Plain | None:
        """What the headers say. A client sends the same ones each time, so they are remembered."""
        if len(head) > self.LONGEST_HEAD or not HEAD.fullmatch(head):
            return None
        headers = [line.split(b":", 1) for line in head[:-4].split(b"\r\n")[1:]]
        plain = read_plain([(name.lower(), value.lstrip()) for name, value in headers])  # as the parser does
        if plain and plain.request_id is None:
            if len(self._heads) >= self.MOST_HEADS:
                self._heads.clear()
            self._heads[head] = plain
        return plain


def read_plain(headers: list[tuple[bytes, bytes]]) -> Plain | None:
    """What plain headers say; None where one of them asks for more."""
    token, request_id = b"", None
    for name, value in headers:
        if name in CHANGING or value.lower() != PLAIN.get(name, value.lower()):
            return None
        if name == b"authorization":
            scheme, _, rest = value.partition(b" ")
            if token or scheme.lower() != b"bearer" or not rest.strip():
                return None
            token = rest.strip()
        elif name == b"x-request-id":
            if request_id or not REQUEST_ID.fullmatch(value):
                return None
            request_id = value
    return Plain(token, request_id)


def allows_nobody(token: bytes, scope: str) -> bool:
    """No token is let in."""
    return False


NO_SHORT_CUTS = ShortCuts([], None, ErrorHandler({}, log_values=False), log_requests=False)


class HotProtocol(GuardedProtocol):
    """One connection.

    Between two requests, data that is one whole plain request takes the short cut; all other data goes to
    uvicorn. `_asked` is the request on the short cut; what comes in before its answer is held.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection. Where uvicorn counts requests to refuse some, it must see them all."""
        super().connection_made(transport)
        self._short_cuts: ShortCuts = self.app_state["short_cuts"] or NO_SHORT_CUTS
        self._may_cut = bool(self._short_cuts) and self.limit_concurrency is None and not self.root_path
        self._asked: Asked | None = None
        self._ending = False
        self._active = 0.0

    def data_received(self, data: bytes) -> None:
        """Takes the short cut, or leaves it to uvicorn."""
        if self._asked:
            self.flow.hold(data)
        elif (
            self._may_cut
            and not self._receiving
            and not self.pipeline
            and not self.flow.write_paused
            and (not self.cycle or self.cycle.response_complete)
            and (found := self._short_cuts.match(data))
        ):
            self._asked = found
            try:
                found.cut.submit(found.what, self._tell)
            except OverloadedError as error:
                self._tell(None, error)
        else:
            super().data_received(data)

    def _tell(self, row: object, error: Exception | None) -> None:
        """Answers the request that was asked."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        errors = self._short_cuts.errors
        try:
            response = errors.answer(error, asked.request_id) if error else asked.cut.answer(asked.what, row)
        except Exception as failure:
            response = errors.answer(failure, asked.request_id)
        self._answer(asked, response)

    def _answer(self, asked: Asked, response: Response) -> None:
        if self._short_cuts.log_requests:
            path = asked.target.partition(b"?")[0].decode()
            scope = {"method": "GET", "path": path, "client": self.client}
            log_request(scope, asked.request_id, response.status_code, time.perf_counter() - asked.started)
        if self.transport.is_closing():
            return
        defaults = self._short_cuts.join_defaults(self.server_state.default_headers)
        lines = response.lines if isinstance(response, JsonResponse) else join_lines(response.raw_headers)
        self.transport.write(
            frame(
                response.status_code,
                defaults,
                lines,
                asked.request_id,
                bytes(response.body),
                close=self._ending,
            )
        )
        self.server_state.total_requests += 1
        if not self._active:  # until now the timeout was that of a connection that says nothing
            self._arm_keep_alive(self.timeout_keep_alive)
        self._active = self.loop.time()
        if self._ending:
            self.transport.close()
        elif self.flow.held:
            self.data_received(self.flow.release())

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection. A short cut only notes when it was used: a timer costs 2 µs."""
        rest = self._active + self.timeout_keep_alive - self.loop.time()
        if self._asked or rest > 0:
            self._arm_keep_alive(self.timeout_keep_alive if self._asked else rest)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Ends the connection as soon as nothing is asked on it."""
        if self._asked:
            self._ending = True
        else:
            super().shutdown()
