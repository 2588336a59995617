"""How a connection writes, and when it reads on: as uvicorn does, less what that costs, and with bounds."""

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

from uvicorn._types import (
    ASGIReceiveEvent,
    ASGISendEvent,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
)
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from svc.http.answers import answer_problem
from svc.http.headers import take_request_id
from svc.http.problems import TITLES, Problem

STATUS_LINE.update({status: b"HTTP/1.1 %d %b\r\n" % (status, TITLES[status].encode()) for status in TITLES})
"""uvicorn's are Python's, which before 3.13 has older words: the bytes are the same with each version."""

CLOSING, KEEPING = b"connection: close\r\n", b"connection: keep-alive\r\n"
"""Lines of an answer after which the connection ends, or goes on though HTTP/1.0 would end it."""


def join_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Join headers as they are written; names are in lower case."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def frame(
    status: int, defaults: bytes, lines: bytes, request_id: bytes, body: bytes, ending: bytes = b""
) -> bytes:
    """Make a whole response; `defaults` and `lines` are the lines of uvicorn's headers and of its own.

    `ending` is CLOSING, KEEPING, or nothing.
    """
    return b"%b%b%bx-request-id: %b\r\n%b\r\n%b" % (
        STATUS_LINE[status],
        defaults,
        lines,
        request_id,
        ending,
        body,
    )


class CycleTransport:
    """The transport as a cycle uses it. Where a cycle closes it, the protocol decides how.

    `is_wasted` tells whether it must be closed, as too much of the request's body is still to come.
    """

    def __init__(
        self, transport: asyncio.Transport, end: Callable[[], None], is_wasted: Callable[[], bool]
    ) -> None:
        self.is_wasted: Callable[[], bool] = is_wasted
        self.write = transport.write
        self.stop = transport.close
        self.is_closing = transport.is_closing
        self.close: Callable[[], object] = end

    def forget(self) -> None:
        """Let go of the protocol, which is gone: a circle of the two would wait for the collector."""
        self.close = do_nothing
        self.is_wasted = do_nothing


def do_nothing() -> bool:
    """Do nothing."""
    return False


class Cycle(RequestResponseCycle):
    """One request and its response, whose start is kept until the body begins, as ASGI asks of servers.

    A response that is all there then goes out in one write. uvicorn writes two, and tries two regular
    expressions on each header.
    """

    version = "1.1"
    is_chunked = False
    """Whether the request's body comes in chunks."""
    _is_read = False
    _unsized = False
    _start: HTTPResponseStartEvent | None = None
    _refuse: Callable[[], None] | None = None

    def cut_off(self, refuse: Callable[[], None]) -> None:
        """Let no more of the body come in; `refuse` answers an app that asks for it."""
        self._refuse = refuse
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        """Give the app what came of the body; where no more can come, refuse what it would answer."""
        message = await super().receive()
        self._is_read = not self.more_body
        if self._refuse is None or message["type"] != "http.request":
            return message
        if message["body"]:
            self.message_event.set()  # the next one has nothing to wait for
            return message
        self.disconnected = True
        if not self.response_started:
            self._refuse()
        self.transport.close()
        return {"type": "http.disconnect"}

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the app says."""
        if message["type"] == "http.response.start" and not self.response_started:
            wasted = cast("CycleTransport", self.transport).is_wasted()
            wasted |= self.is_chunked and not self._is_read  # nobody knows how much is to come
            if wasted or self.waiting_for_100_continue:  # a client that goes on without its body is misread
                self.keep_alive = False
            if self.version == "1.0":
                self._begin_1_0(message)
            self._start = message
            return
        start, self._start = self._start, None
        if start is None:
            await self._send_part(cast("HTTPResponseBodyEvent", message))
        elif self._is_whole(start, body := cast("HTTPResponseBodyEvent", message)):
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            self._send_whole(start, body.get("body", b""))
        else:
            await super().send(start)
            await self._send_part(cast("HTTPResponseBodyEvent", message))

    async def send_500_response(self) -> None:
        """Answer where the app was stopped: the service ends, and its time to end is over."""
        retry = {"Retry-After": "1"}
        if self.more_body or self.scope["method"] in ("GET", "HEAD", "OPTIONS"):
            detail = "The service is stopping; nothing was done"
            problem = Problem(503, detail, code="stopping", headers=retry)
        else:
            detail = "The service is stopping; the change may have been made, or may not"
            problem = Problem(503, detail, code="outcome-unknown", headers=retry)
        request_id = take_request_id([*self.scope["headers"]])
        response = answer_problem(problem, request_id)
        headers = [*response.raw_headers, (b"x-request-id", request_id), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 503, "headers": headers})
        await self.send({"type": "http.response.body", "body": bytes(response.body), "more_body": False})
        cast("CycleTransport", self.transport).stop()  # there is no time to read on

    async def _send_part(self, message: HTTPResponseBodyEvent) -> None:
        """Send a part of a body. Of one without a length, each part is as long as uvicorn expects."""
        if self._unsized:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)

    def _begin_1_0(self, start: HTTPResponseStartEvent) -> None:
        """Answer a client of HTTP/1.0: no chunks, so what has no length ends with the connection.

        To keep it is said, or the client waits for its end (RFC 9112, C.2.2).
        """
        headers = [*start.get("headers", ())]
        sized = any(name == b"content-length" for name, _ in headers)
        if not sized and start["status"] not in (204, 304) and self.scope["method"] != "HEAD":
            self.keep_alive, self.chunked_encoding, self._unsized = False, False, True
        if self.keep_alive:
            start["headers"] = [*headers, (b"connection", b"keep-alive")]

    def _is_whole(self, start: HTTPResponseStartEvent, body: HTTPResponseBodyEvent) -> bool:
        """Tell a good answer with all of its body; what refuses may ask for more than a write."""
        if body.get("more_body") or self.scope["method"] == "HEAD" or start["status"] >= 300:
            return False
        return (b"content-length", b"%d" % len(body.get("body", b""))) in start.get("headers", ())

    def _send_whole(self, start: HTTPResponseStartEvent, body: bytes) -> None:
        """Write it in one go. Raises ValueError for a header that would be two lines."""
        if self.disconnected:
            return
        headers = (*self.default_headers, *start.get("headers", ()))
        lines = join_lines(headers)
        if not lines.count(b"\r") == lines.count(b"\n") == len(headers):
            raise ValueError("a header has an end of line in it")
        closing = b"" if self.keep_alive else CLOSING
        self.transport.write(b"%b%b%b\r\n%b" % (STATUS_LINE[start["status"]], lines, closing, body))
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Flow(FlowControl):
    """uvicorn's, that reads no more while input is held back from the parser, or the app has enough.

    The two are apart: what is released may still be more than the app has taken.
    """

    held = False
    full = False
    """Whether uvicorn wants no more for now: the app has 64 KiB of a body to take."""
    ended = False
    """Whether the client said that nothing more will come."""

    def hold(self) -> None:
        """Read no more."""
        self.held = True
        super().pause_reading()

    def release(self) -> None:
        """Read on, unless the app has enough."""
        self.held = False
        if not self.full:
            super().resume_reading()

    def pause_reading(self) -> None:
        """Read no more until the app takes some."""
        self.full = True
        super().pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless something is held."""
        self.full = False
        if not self.held:
            super().resume_reading()
