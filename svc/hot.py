"""Short cuts: the plainest GET of one row, answered by the protocol itself.

No parser, no ASGI, no task, no future. What is not just that form, byte by byte, goes to uvicorn's code
unread and unchanged; either way the answer is the same. docs/fast-path.md tells how it works, what
it guarantees and what it gives up.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from starlette.responses import Response

from svc.edge import explain, log_request
from svc.errors import Problem
from svc.guard import GuardedProtocol, frame
from svc.headers import REQUEST_ID, make_request_id
from svc.web import Operation, ShortCut, parse_id

HEAD = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)*\r\n")
"""Header lines as RFC 9112 has them, in ASCII, and the empty line."""

CHANGING = frozenset(
    b"""content-length transfer-encoding expect upgrade te trailer proxy-connection http2-settings keep-alive
    if-match if-none-match if-modified-since if-unmodified-since if-range range prefer""".split()
)
"""Headers that change the answer, or what comes after it."""

PLAIN = {b"connection": b"keep-alive", b"accept": b"*/*"}
"""Headers that change nothing as long as they have this value."""


NONE: tuple[None, None] = (None, None)


class Plain(Struct, frozen=True):
    """The headers of a plain request: whose it is, and its id where the client gave it one."""

    token: bytes
    request_id: str | None


class Asked(Struct, frozen=True):
    """A request that is being answered: its path, its id, when it came (seconds), how it is answered."""

    path: bytes
    request_id: str
    started: float
    answer: Callable[[Any], Response]


class ShortCuts:
    """The short cuts of an app's operations, by the folder of their paths: `/users` for `/users/{id}`.

    `knows` tells without waiting whether a token may do what a scope names.
    """

    MOST_HEADS = 1000
    LONGEST_HEAD = 2048  # less than the least SVC_MAX_HEAD

    def __init__(
        self, operations: Iterable[Operation], knows: Callable[[bytes, str], bool], log_requests: bool
    ) -> None:
        self._operations = {
            operation.path.removesuffix("/{id}").encode(): (operation.short_cut(), operation.scope)
            for operation in operations
            if operation.short_cut
        }
        self._knows = knows
        self._heads: dict[bytes, Plain] = {}
        self.log_requests = log_requests

    def match(self, data: bytes) -> tuple[ShortCut[Any], int, Asked] | None:
        """The short cut, the row's id and what is to be kept of a plain request; None for any other."""
        line, _, head = data.partition(b"\r\n")
        if line[:4] != b"GET " or line[-9:] != b" HTTP/1.1":
            return None
        path = line[4:-9]
        folder, _, name = path.rpartition(b"/")
        short_cut, scope = self._operations.get(folder, NONE)
        if short_cut is None or (id_ := parse_id(name)) is None:
            return None
        plain = self._heads.get(head) or self._read_head(head)
        if plain is None or (scope and not self._knows(plain.token, scope)):
            return None
        request_id = plain.request_id or make_request_id()
        return short_cut, id_, Asked(path, request_id, time.perf_counter(), short_cut.answer)

    def _read_head(self, head: bytes) -> Plain | None:
        """What the headers say. A client sends the same ones each time, so they are remembered."""
        if len(head) > self.LONGEST_HEAD or not HEAD.fullmatch(head):
            return None
        headers = [line.split(b":", 1) for line in head[:-4].split(b"\r\n") if line]
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
            request_id = value.decode("ascii")
    return Plain(token, request_id)


class HotProtocol(GuardedProtocol):
    """One connection.

    Between two requests, data that is one whole plain request takes the short cut; all other data goes to
    uvicorn. `_asked` is the request on the short cut; what comes in before its answer is held.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection. Where uvicorn counts requests to refuse some, it must see them all."""
        super().connection_made(transport)
        plain = self.limit_concurrency is None and not self.root_path
        self._short_cuts: ShortCuts | None = self.app_state["short_cuts"] if plain else None
        self._asked: Asked | None = None
        self._ending = False
        self._active = 0.0

    def data_received(self, data: bytes) -> None:
        """Takes the short cut, or leaves it to uvicorn."""
        if self._asked:
            self.flow.hold(data)
        elif (
            self._short_cuts
            and not self._receiving
            and not self.pipeline
            and not self.flow.write_paused
            and (not self.cycle or self.cycle.response_complete)
            and (found := self._short_cuts.match(data))
        ):
            short_cut, id_, self._asked = found
            try:
                short_cut.ask(id_, self._tell)
            except Problem as problem:
                self._tell(None, problem)
        else:
            super().data_received(data)

    def _tell(self, row: object, error: Exception | None) -> None:
        """Answers the request that was asked."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        try:
            response = explain(error, asked.request_id) if error else asked.answer(row)
        except Exception as failure:
            response = explain(failure, asked.request_id)
        self._answer(asked, response)

    def _answer(self, asked: Asked, response: Response) -> None:
        if self._short_cuts and self._short_cuts.log_requests:
            scope = {"method": "GET", "path": asked.path.decode(), "client": self.client}
            log_request(scope, asked.request_id, response.status_code, time.perf_counter() - asked.started)
        if self.transport.is_closing():
            return
        headers = self.server_state.default_headers
        self.transport.write_now(frame(response, headers, asked.request_id, close=self._ending))
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
