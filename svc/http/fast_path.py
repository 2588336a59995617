"""Short cuts: plain reads, small changes and plain new rows, answered by the protocol itself.

No parser, no ASGI, and no task or future here. What is not just that form, byte by byte, goes to uvicorn's
code unread and unchanged; either way the answer is the same. docs/fast-path.md tells how it works, what it
guarantees and what it gives up.
"""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, structs
from starlette.responses import Response

from svc.config import Networks
from svc.http.answers import JsonResponse
from svc.http.authentication import Authenticator
from svc.http.headers import (
    NO_PROXIES,
    find_client,
    make_request_id,
    parse_bearer,
    parse_media_type,
    parse_request_id,
)
from svc.http.heads import check_head
from svc.http.logs import log_request
from svc.http.middleware import ErrorHandler
from svc.http.operations import FastRoute, Operation
from svc.http.problems import Problem
from svc.http.protocol import FAST, IDLE, MAX_FIELDS, GuardedProtocol
from svc.http.transport import CLOSING, KEEPING, frame, join_lines

HEAD = re.compile(rb"HTTP/1\.([01])\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)*\r\n")
"""What follows the target: the version, header lines as RFC 9112 has them, in ASCII, and the empty line."""

LONGEST_HEAD = 2048
"""Bytes of a request on the fast path: less than the least SVC_MAX_HEAD."""

UNSUPPORTED_HEADERS = frozenset(
    b"""transfer-encoding content-encoding expect te trailer proxy-connection keep-alive if-match
    if-none-match if-modified-since if-unmodified-since if-range range prefer idempotency-key""".split()
)
"""Headers that change the answer, or what comes after it."""

LONGEST_BODY = 4096
"""Bytes of a body there: as many as are parsed in the event loop on the long way."""

LENGTH = re.compile(rb"[1-9][0-9]{0,3}")
"""The Content-Length of such a body."""

CONNECTION_OPTIONS = frozenset([b"keep-alive", b"close", b"upgrade", b"http2-settings"])
"""What Connection may say: nothing is upgraded here (RFC 9110, 7.8), so an offer changes nothing."""

VARYING = re.compile(
    rb"\r\n(x-request-id|traceparent|tracestate|x-b3-\w+|x-cloud-trace-context|x-amzn-trace-id"
    rb"|x-forwarded-\w+|forwarded|x-real-ip)"
    rb":[\t ]*([\t\x20-\x7e]*)(?=\r\n)",
    re.IGNORECASE,
)
"""Lines that differ each time, behind a proxy or in a mesh: a head is looked up without them."""

VARYING_READ = b"x-request-id", b"x-forwarded-for"
"""Those of them that are read."""


class RequestHead(Struct, frozen=True, gc=False):
    """The headers of a plain request: whose it is, how its answer ends, its id where the client gave one.

    `length` is that of a body, 0 for none, and `media_type` its type. `forwarded` are the lines of
    X-Forwarded-For.
    """

    token: bytes
    ending: bytes
    length: int = 0
    media_type: str = ""
    request_id: bytes | None = None
    forwarded: tuple[bytes, ...] = ()


class ScopedRoute(Struct, frozen=True, gc=False):
    """A fast route, and the scope that it needs."""

    route: FastRoute[Any, Any]
    scope: str | None


class PendingRequest(Struct, gc=False):
    """A request that waits for its row: what it asks, and how; its id, its target, when it came."""

    method: bytes
    key: Any
    route: FastRoute[Any, Any]
    request_id: bytes
    target: bytes
    started: float
    ending: bytes
    key_id: int | None
    forwarded: tuple[bytes, ...]


NO_ROUTES: Mapping[bytes, ScopedRoute] = {}

NOTHING_NOTED: tuple[float, None] = 0.0, None


class FastPath:
    """The fast routes of an app's operations, by the method, and by the path up to an id or to a query.

    The authenticator tells without waiting whether a token may do what a scope names.
    """

    MOST_HEADS = 1000

    def __init__(
        self,
        operations: Iterable[Operation],
        authenticator: Authenticator | None,
        errors: ErrorHandler,
        *,
        log_requests: bool,
        max_body: int = LONGEST_BODY,
        hosts: frozenset[bytes] = frozenset(),
        proxies: Networks = NO_PROXIES,
        cors: bool = False,
    ) -> None:
        self._hosts = hosts
        self._unsupported = UNSUPPORTED_HEADERS | {b"origin"} if cors else UNSUPPORTED_HEADERS
        self.vary = b"vary: Origin\r\n" if cors else b""
        self.proxies = proxies
        self._max_body = min(max_body, LONGEST_BODY)
        self._by_id: dict[bytes, dict[bytes, ScopedRoute]] = {}
        self._by_query: dict[bytes, dict[bytes, ScopedRoute]] = {}
        for operation in operations:
            if operation.fast:
                folder, _, end = operation.path.rpartition("/")
                routes = self._by_id if end == "{id}" else self._by_query
                path = folder if end == "{id}" else operation.path
                route = ScopedRoute(operation.fast, operation.scope)
                routes.setdefault(operation.method.encode(), {})[path.encode()] = route
        self._allows = authenticator.allows if authenticator else allows_nobody
        self._authenticator = authenticator
        self.errors = errors
        self._heads: dict[bytes, RequestHead] = {}
        self._defaults: tuple[object, bytes] = None, b""
        self.log_requests = log_requests

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._by_id or self._by_query)

    def match(self, data: bytes) -> PendingRequest | None:
        """Return what a plain request asks; None for any other."""
        parts = data.split(b" ", 2)
        if len(parts) < 3 or len(data) > LONGEST_HEAD + LONGEST_BODY:
            return None
        method, target, rest = parts
        folder, _, end = target.rpartition(b"/")
        found = self._by_id.get(method, NO_ROUTES).get(folder)
        if found is None:
            path, _, end = target.partition(b"?")
            found = self._by_query.get(method, NO_ROUTES).get(path)
        if found is None:
            return None
        body = None
        if found.route.media_types:
            size = rest.find(b"\r\n\r\n") + 4
            body, rest = rest[size:], rest[:size]
        head = None if len(rest) > LONGEST_HEAD else self._heads.get(rest) or self._read_head(rest)
        if head is None or (found.scope and not self._allows(head.token, found.scope)):
            return None
        plain = body is None and not head.length
        key = found.route.parse(end) if plain else self._parse_body(found.route, head, end, body)
        if key is None:
            return None
        request_id = head.request_id or make_request_id()
        started, key_id = self._note(head, found) if self.log_requests else NOTHING_NOTED
        return PendingRequest(
            method, key, found.route, request_id, target, started, head.ending, key_id, head.forwarded
        )

    def _parse_body(
        self, route: FastRoute[Any, Any], head: RequestHead, end: bytes, body: bytes | None
    ) -> object:
        """Return what a request with a body asks, if that is whole and of a type that the route takes."""
        if not body or not head.length == len(body) <= self._max_body:
            return None
        if head.media_type not in route.media_types or not self._authenticator:
            return None
        return route.parse(end, body, self._authenticator.find_id(head.token))

    def _note(self, head: RequestHead, found: ScopedRoute) -> tuple[float, int | None]:
        """Return what the log will want to know: when a request came, and with which key."""
        asks = self._authenticator if found.scope else None
        return time.perf_counter(), asks.find_id(head.token) if asks else None

    def join_defaults(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the lines of uvicorn's own headers, which are other ones each second."""
        if headers is not self._defaults[0]:
            self._defaults = headers, join_lines(headers)
        return self._defaults[1]

    def _read_head(self, lines: bytes) -> RequestHead | None:
        """Return what the headers say, but for those that differ each time: the others are remembered."""
        if lines.count(b"\n") > MAX_FIELDS + 2:
            return None
        varying = VARYING.findall(lines)
        lines = VARYING.sub(b"", lines) if varying else lines
        head = self._heads.get(lines) or self._parse_head(lines)
        return vary_head(head, varying) if head and varying else head

    def _parse_head(self, lines: bytes) -> RequestHead | None:
        """Return what the headers say, and remember it."""
        found = HEAD.fullmatch(lines)
        if not found:
            return None
        headers = [line.split(b":", 1) for line in lines[:-4].split(b"\r\n")[1:]]
        fields = [(name.lower(), value.lstrip()) for name, value in headers]  # as the parser has them
        head = read_headers(fields, "1." + found[1].decode(), self._hosts, self._unsupported)
        if head:
            if len(self._heads) >= self.MOST_HEADS:
                self._heads.clear()
            self._heads[lines] = head
        return head


def vary_head(head: RequestHead, varying: list[tuple[bytes, bytes]]) -> RequestHead | None:
    """Return a head with what differs each time; None for an id that is not plain, or for several."""
    ids, forwarded = ([value for each, value in varying if each.lower() == name] for name in VARYING_READ)
    request_id = parse_request_id(ids[0]) if len(ids) == 1 else None
    if ids and not request_id:
        return None
    return structs.replace(head, request_id=request_id, forwarded=tuple(forwarded))


def read_headers(
    headers: list[tuple[bytes, bytes]], version: str, hosts: frozenset[bytes], unsupported: frozenset[bytes]
) -> RequestHead | None:
    """Return what plain headers say; None where one of them asks for more."""
    try:
        check_head(b"", version, headers, hosts)
    except Problem:
        return None
    token, options = b"", set[bytes]()
    for name, value in headers:
        if name in unsupported or name == b"x-request-id":
            return None
        if name == b"connection":
            options |= {option.strip() for option in value.lower().split(b",")}
        if name == b"authorization" and (token or not (token := parse_bearer(value) or b"")):
            return None
    length = read_length([value for name, value in headers if name == b"content-length"])
    plain = options <= CONNECTION_OPTIONS and not (length and b"upgrade" in options)
    if not plain or length is None:
        return None
    media_type = next((value for name, value in headers if name == b"content-type"), b"")  # the first counts
    return RequestHead(token, find_ending(options, version), length, parse_media_type(media_type.decode()))


def read_length(values: list[bytes]) -> int | None:
    """Return the length of a body, 0 where none is said; None for what is not plain."""
    if not values:
        return 0
    return int(values[0]) if len(values) == 1 and LENGTH.fullmatch(values[0]) else None


def find_ending(options: set[bytes], version: str) -> bytes:
    """Return the line of an answer that tells whether the connection goes on (RFC 9112, 9.3)."""
    if b"close" in options or (version == "1.0" and b"keep-alive" not in options):
        return CLOSING
    return KEEPING if version == "1.0" else b""


def allows_nobody(token: bytes, scope: str) -> bool:
    """Let no token in."""
    return False


NO_FAST_PATH = FastPath([], None, ErrorHandler({}, log_values=False), log_requests=False)


class FastProtocol(GuardedProtocol):
    """One connection: in the state IDLE, data that is one whole plain request takes the fast path."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a new connection. Where uvicorn counts requests to refuse some, it must see them all."""
        super().connection_made(transport)
        self._fast_path: FastPath = self.app_state["fast_path"] or NO_FAST_PATH
        self._enabled = bool(self._fast_path) and self.limit_concurrency is None and not self.root_path
        self._pending: PendingRequest | None = None

    def data_received(self, data: bytes) -> None:
        """Take the fast path, or leave it to uvicorn."""
        if (
            self._state is IDLE
            and self._enabled
            and not self.flow.write_paused
            and (found := self._fast_path.match(data))
        ):
            self._state = FAST
            self._pending = found
            try:
                found.route.submit(found.key, self._resolve)
            except Exception as error:  # too many wait; or what is asked for is nothing that can be asked for
                self._resolve(None, error)
        else:
            super().data_received(data)

    def _resolve(self, row: object, error: Exception | None) -> None:
        """Answer the pending request."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        errors = self._fast_path.errors
        try:
            if error:
                response = errors.answer(error, pending.request_id)
            else:
                response = pending.route.answer(pending.key, row)
        except Exception as failure:
            response = errors.answer(failure, pending.request_id)
        self._respond(pending, response)

    def _respond(self, pending: PendingRequest, response: Response) -> None:
        if self._fast_path.log_requests:
            path = pending.target.partition(b"?")[0].decode()
            client = find_client(self.client, pending.forwarded, self._fast_path.proxies)
            scope = {
                "method": pending.method.decode(),
                "path": path,
                "client": client,
                "key_id": pending.key_id,
            }
            log_request(
                scope, pending.request_id, response.status_code, time.perf_counter() - pending.started
            )
        if self.transport.is_closing():
            return
        defaults = self._fast_path.join_defaults(self.server_state.default_headers)
        lines = response.lines if isinstance(response, JsonResponse) else join_lines(response.raw_headers)
        self.transport.write(
            frame(
                response.status_code,
                defaults,
                lines,
                pending.request_id,
                bytes(response.body),
                self._fast_path.vary + pending.ending,
            )
        )
        self.server_state.total_requests += 1
        self._note_use()
        if pending.ending is CLOSING:
            self._end()
            return
        self._state = IDLE
        if self.flow.held:
            self._continue()

    def _continue(self) -> None:
        """Go on after an answer; what was held may be one more plain request."""
        held = len(self._input) - self._at
        if 0 < held <= LONGEST_HEAD + LONGEST_BODY:
            data, self._input, self._at = self._input[self._at :], b"", 0
            self.flow.release()
            self.data_received(data)
        else:
            super()._continue()

    def shutdown(self) -> None:
        """End the connection as soon as nothing is asked on it."""
        if self._pending:
            self._pending.ending = CLOSING
        else:
            super().shutdown()
