"""The HTTP protocol on the port: uvicorn's own, with the limits that it lacks.

uvicorn on httptools bounds neither the size of a request's head, nor the time that it takes to come in, nor
the time that its answer waits to be taken; it answers what is no HTTP in plain text, and writes the head and
the body of a response apart.
"""

import asyncio
import sys

import uvicorn
from msgspec import Struct
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from svc.errors import Problem
from svc.headers import make_request_id
from svc.transport import Cycle, Flow, frame, join_lines
from svc.web import answer_problem

TESTED = ("0.54.",)
"""The versions of uvicorn whose class was read and tested; pyproject.toml pins the same."""

NEEDED = frozenset("cycle pipeline flow transport server_state app_state loop timeout_keep_alive".split())
"""The attributes of uvicorn's class that are used here and in hot.py."""

SLOWEST = 500
"""Bytes a second: a body that comes faster may take longer than the limit, as in Apache's mod_reqtimeout."""

PATIENCE = 60.0
"""Seconds that a client may leave what was written untaken."""

SLICE = 4096
"""Bytes that the parser gets at once. A request has 18 of them at least, and takes 2.5 KiB once parsed."""


def find_misfit() -> str | None:
    """Why uvicorn's class is not the one that this file was written for; None where it is."""
    if not uvicorn.__version__.startswith(TESTED):
        return f"uvicorn {uvicorn.__version__} was not tested"
    missing = NEEDED - set(HttpToolsProtocol.__init__.__code__.co_names)
    return f"uvicorn's protocol has no {', '.join(sorted(missing))}" if missing else None


class ReceiveLimits(Struct, frozen=True):
    """Bytes of a request's head; seconds for its head, and for its body beyond what SLOWEST allows."""

    head: int
    seconds: float


def announces_body(name: bytes, value: bytes) -> bool:
    """Whether a header says that a body follows."""
    return name == b"transfer-encoding" or (name == b"content-length" and value != b"0")


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    `_receiving` holds from the first byte of a request to its last. `_own` is the cycle of the request whose
    body comes in, and `_refused` what answers it, once the requests before it are answered.
    """

    flow: Flow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection: it must say something in time."""
        super().connection_made(transport)
        self.flow = Flow(transport)  # pyright: ignore[reportIncompatibleVariableOverride]
        self._limits: ReceiveLimits = self.app_state["receive_limits"]
        self._receiving = self._in_head = False
        self._fed = self._head_size = self._body_size = 0
        self._began = 0.0
        self._own: RequestResponseCycle | None = None
        self._refused: Problem | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._refusal = Problem(400, "This is not HTTP/1.1", code="malformed")
        self._arm_keep_alive(self._limits.seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._watch, self._stalled):
            if timer:
                timer.cancel()

    def pause_writing(self) -> None:
        """More than 64 KiB wait for the client, or for the network to say that it is gone."""
        super().pause_writing()
        self._stalled = self.loop.call_later(PATIENCE, self.transport.abort)

    def resume_writing(self) -> None:
        """The client took them."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser until a request waits for the one before it, and holds the rest.

        uvicorn parses all that it reads, and reads on after each answer: its memory had no bound.
        """
        while data and not self.pipeline:
            if self._refused or self.transport.is_closing():
                return
            self._feed(data[:SLICE])
            data = data[self._fed :]
        if data:
            self.flow.hold(data)

    def _feed(self, data: bytes) -> None:
        """Feeds the parser, and watches over what is not whole yet."""
        self._fed = len(data)
        super().data_received(data)
        if self._in_head:
            self._head_size += self._fed
            if self._head_size > self._limits.head:
                self._refuse(self._head_too_large())
        if not self._receiving:
            self._ensure_keep_alive()
        elif self._watch is None:
            self._watch = self.loop.call_later(self._limits.seconds, self._check_progress)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._receiving = self._in_head = True
        self._head_size, self._body_size = -self._fed, 0  # what came with it may be earlier requests
        self._began = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a header. Trailers are dropped, and never become headers (RFC 9110, 6.5.1).

        uvicorn keeps both in one list, so what the app saw depended on how the bytes came in.
        """
        if self._own is None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Starts the app, unless the head is refused, which ends the parsing."""
        self._in_head = False
        if refusal := self._find_refusal():
            self._refusal = refusal
            raise refusal
        super().on_headers_complete()
        self._own = self.cycle

    def _find_refusal(self) -> Problem | None:
        """What is wrong with a head: its size, or a body behind an upgrade, which the parser does not see."""
        at_most = self._head_size + 2 * SLICE  # of what came in; seldom is there a need to look closer
        if at_most > self._limits.head and self._measure_head() > self._limits.head:
            return self._head_too_large()
        if (
            self.parser
            and self.parser.should_upgrade()
            and any(announces_body(*header) for header in self.headers)
        ):
            return Problem(400, "A request that asks for an upgrade may have no body", code="malformed")
        return None

    def _measure_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """uvicorn makes its own cycle and has no place for another."""
        cycle.__class__ = Cycle
        super()._start_asgi_task(cycle, app)

    def on_chunk_header(self) -> None:
        """A chunk of the body; after the last one, which has no bytes, come trailers, kept like a head."""
        self._in_head = True
        self._head_size = -self._fed

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._in_head = False
        self._body_size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._receiving = self._in_head = False
        self._own = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Goes on with the next request, or with a refusal that waited for its turn."""
        super().on_response_complete()
        if self._refused:
            self._refuse(self._refused)
        elif self.flow.held and not self.pipeline and not self.transport.is_closing():
            self.data_received(self.flow.release())

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does when the parser fails: here it may have been our own refusal."""
        self._refuse(self._refusal)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing is upgraded (RFC 9110, 7.8): goes on with what came behind, which uvicorn drops."""
        upgrade = sys.exception()
        self._fed = upgrade.args[0] if upgrade else self._fed

    def _ensure_keep_alive(self) -> None:
        """Arms the timeout where nothing is going on: uvicorn stops it at every byte, a stray one, too."""
        if self.timeout_keep_alive_task is None and (not self.cycle or self.cycle.response_complete):
            self._arm_keep_alive(self.timeout_keep_alive)

    def _arm_keep_alive(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _head_too_large(self) -> Problem:
        return Problem(431, f"A request's head may have {self._limits.head} bytes", code="head-too-large")

    def _check_progress(self) -> None:
        """Answers 408 where the request does not come in fast enough, unless it is us who do not read."""
        self._watch = None
        if not self._receiving or self.transport.is_closing():
            return
        now = self.loop.time()
        if self.flow.read_paused:
            self._began = now
        rest = self._began + self._limits.seconds + self._body_size / SLOWEST - now
        if rest > 0:
            self._watch = self.loop.call_later(rest, self._check_progress)
        else:
            self._refuse(Problem(408, "The request did not come in time", code="too-slow"))

    def _refuse(self, problem: Problem) -> None:
        """Answers, unless an answer has begun, and closes. Requests that came before are answered first."""
        own, last = self._own, self.cycle
        if self.transport.is_closing():
            return
        if self.pipeline or (own is None and last and not last.response_complete):
            self._refused = self._refused or problem
            self.flow.pause_reading()
            return
        if own and not own.response_complete:  # a handler that still reads hears of it
            own.disconnected = True
            own.message_event.set()
        if not (own and own.response_started):
            request_id = make_request_id()
            answer = answer_problem(problem, request_id)
            defaults, lines = join_lines(self.server_state.default_headers), join_lines(answer.raw_headers)
            self.transport.write(
                frame(answer.status_code, defaults, lines, request_id, bytes(answer.body), close=True)
            )
        self.transport.close()
