"""How a connection writes, and when it reads on: as uvicorn does, less what that costs, and with bounds."""

from collections.abc import Iterable
from typing import cast

from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

CLOSING = b"connection: close\r\n"


def join_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are written; names are in lower case."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def frame(
    status: int, defaults: bytes, lines: bytes, request_id: bytes, body: bytes, *, close: bool
) -> bytes:
    """A whole response; `defaults` and `lines` are the lines of uvicorn's headers and of its own."""
    return b"%b%b%bx-request-id: %b\r\n%b\r\n%b" % (
        STATUS_LINE[status],
        defaults,
        lines,
        request_id,
        CLOSING if close else b"",
        body,
    )


class Cycle(RequestResponseCycle):
    """One request and its response, whose start is kept until the body begins, as ASGI asks of servers.

    A response that is all there then goes out in one write. uvicorn writes two, and tries two regular
    expressions on each header.
    """

    _start: HTTPResponseStartEvent | None = None

    async def send(self, message: ASGISendEvent) -> None:
        """What the app says."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._start = message
            return
        start, self._start = self._start, None
        if start is None:
            await super().send(message)
        elif self._is_whole(start, body := cast("HTTPResponseBodyEvent", message)):
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            self._send_whole(start, body.get("body", b""))
        else:
            await super().send(start)
            await super().send(message)

    def _is_whole(self, start: HTTPResponseStartEvent, body: HTTPResponseBodyEvent) -> bool:
        """Whether it is a good answer with all of its body; what refuses may ask for more than a write."""
        if body.get("more_body") or self.scope["method"] == "HEAD" or start["status"] >= 300:
            return False
        return (b"content-length", b"%d" % len(body.get("body", b""))) in start.get("headers", ())

    def _send_whole(self, start: HTTPResponseStartEvent, body: bytes) -> None:
        """Raises ValueError for a header that would be two lines."""
        if self.disconnected:
            return
        headers = (*self.default_headers, *start.get("headers", ()))
        lines = join_lines(headers)
        if not lines.count(b"\r") == lines.count(b"\n") == len(headers):
            raise ValueError("a header has an end of line in it")
        closing = b"" if self.keep_alive else CLOSING
        self.transport.write(b"%b%b%b\r\n%b" % (STATUS_LINE[start["status"]], lines, closing, body))
        self.response_started = self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Flow(FlowControl):
    """uvicorn's, that reads no more while requests are held back from the parser."""

    held = b""

    def hold(self, data: bytes) -> None:
        """Keeps what comes behind unanswered requests: one read at most."""
        self.held += data
        self.pause_reading()

    def release(self) -> bytes:
        """What was held. Reading goes on."""
        data, self.held = self.held, b""
        self.resume_reading()
        return data

    def resume_reading(self) -> None:
        """Reads on, unless something is held."""
        if not self.held:
            super().resume_reading()
