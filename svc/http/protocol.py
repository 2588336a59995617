"""The HTTP protocol on the port: uvicorn's class as an explicit state machine, with the limits that it lacks.

Theory of operation
-------------------
uvicorn's `HttpToolsProtocol` gives all that it reads to httptools at once. The parser's callbacks collect a
head, make a cycle (one request and its response) of it and start the app as a task; requests that come while
an answer is due are queued. It bounds neither the size of a head, nor the time that a request takes to come
in, nor the time that an answer waits to be taken.

Here one request is parsed at a time, and the parser gets its bytes cut where a part ends: a head, the line
before a chunk, the bytes of a body. So each limit is exact to the byte, and no answer depends on how the
bytes came in. Each connection is in one `State`:

    IDLE ──── first byte ──→ HEAD ── its end ──→ BODY ⇄ CHUNK_LINE ──→ TRAILERS
     ↑ │                       │ no body           │ last byte             │ empty line
     │ └─ plain hot request ─→ FAST                ↓                       ↓
     │                         │               ANSWERING (or IDLE, where the answer came earlier)
     └──────── answer ─────────┴───────────────────┘

- IDLE: between two requests. Line ends are skipped (RFC 9112, 2.2). The keep-alive timeout runs.
- HEAD: a head comes in. What is wrong with it is refused at once: all earlier requests are answered.
- BODY: bytes of the body whose number is known: Content-Length, or one chunk with its line end.
- CHUNK_LINE: the line with a chunk's size.
- TRAILERS: what is behind the last chunk. It is checked, bounded and dropped (RFC 9110, 6.5.1); the parser
  never sees it, since it would obey a Connection and refuse a Content-Length there.
- ANSWERING: the request is whole, its answer is not. What comes in is held, one read at most.
- FAST: a request on the fast path waits for its row (fast_path.py). What comes in is held, too.
- REFUSING: something is wrong with a body whose request the app works on. Nothing more is parsed. If the
  app answers without the rest of the body, that answer stands; if it asks for the rest, the refusal is sent.
- LINGERING: the last answer is sent, and the client may still be sending. A close now would reset the
  connection, which can take the answer out of the client's hands (RFC 9112, 9.6): reads on, within bounds
  of time and bytes, and the slower the more connections do so.
- CLOSED: nothing is read or written any more.

What all connections together hold and do is bounded, too: svc/http/load.py. What a head must be beyond its
grammar is in svc/http/heads.py; its request line is fed when it is whole, so that it is judged as one.

From HEAD to TRAILERS the request must come in fast enough, or it is refused with 408. `TRANSITIONS` lists
every change of state that there is; the tests hold each connection to it.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from enum import IntEnum, auto
from functools import partial
from typing import ClassVar, cast

import httptools
import uvicorn
from msgspec import Struct
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from svc.http.answers import answer_problem
from svc.http.headers import make_request_id
from svc.http.heads import (
    OPTIONS_ALL,
    check_head,
    explain,
    is_begun,
    malformed,
    measure_body,
    read_as_1_1,
    unquote_path,
)
from svc.http.load import Load
from svc.http.problems import Problem, unavailable
from svc.http.transport import CLOSING, Cycle, CycleTransport, Flow, frame, join_lines

SUPPORTED_UVICORN = ("0.54.",)
"""The versions of uvicorn whose class was read and tested; pyproject.toml pins the same."""

REQUIRED_ATTRIBUTES = frozenset(
    """app_state client cycle expect_100_continue flow headers limit_concurrency loop parser root_path
    server_state timeout_keep_alive timeout_keep_alive_task transport""".split()
)
"""The attributes of uvicorn's class that are used here and in fast_path.py."""

MAX_FIELDS = 100
"""Header fields that a request may have, as in Apache's LimitRequestFields."""

MIN_BODY_RATE = 500
"""Bytes a second: a body that comes faster may take longer than the limit, as in Apache's mod_reqtimeout."""

WRITE_TIMEOUT = 60.0
MIN_READ_RATE = 10_000
"""Seconds that a client may leave what was written untaken, in an answer, and bytes for each one more."""

TAKEN = 49_152
"""Bytes that are taken at least between a pause in writing and its end: asyncio's marks are 64 and 16 KiB."""

LINGER_TIMEOUT = 5.0
LINGER_SIZE = 16 * 2**20
LINGER_PAUSE = 0.02
"""Seconds and bytes that are read on for after a last answer; seconds between two reads of up to 256 KiB."""

LARGE = 16_384
"""Bytes of a body that is counted until it is answered."""

DRAIN_SIZE = 65_536
"""Bytes of a body that are read and dropped after its answer, to keep the connection. In chunks it may have
any number, and the answer says that it is the last: a proxy would send its next request while we close."""

FEED_SIZE = 4096
MAX_TURN = 0.001
"""Bytes of small chunks that are parsed together, and seconds of parsing before others have their turn."""

LINE_ENDS = re.compile(rb"[\r\n]*")
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+")
PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")
"""A line of trailers (RFC 9112, 5)."""


class State(IntEnum):
    """What a connection is at. A number, whose hash is ten times as quick as that of a plain member."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    CHUNK_LINE = auto()
    TRAILERS = auto()
    ANSWERING = auto()
    FAST = auto()
    REFUSING = auto()
    LINGERING = auto()
    CLOSED = auto()


IDLE, HEAD, BODY, CHUNK_LINE, TRAILERS, ANSWERING, FAST, REFUSING, LINGERING, CLOSED = State
"""To look a member of an Enum up costs 30 ns, and a request does so a dozen times."""

RECEIVING = frozenset({HEAD, BODY, CHUNK_LINE, TRAILERS})
"""A request comes in, and must come in fast enough."""

ENDED = frozenset({LINGERING, CLOSED})
"""Nothing is written any more."""

TRANSITIONS: Mapping[State, frozenset[State]] = {
    IDLE: frozenset({HEAD, FAST, CLOSED}),
    HEAD: frozenset({BODY, CHUNK_LINE, ANSWERING, *ENDED}),
    BODY: frozenset({CHUNK_LINE, ANSWERING, IDLE, REFUSING, *ENDED}),
    CHUNK_LINE: frozenset({BODY, TRAILERS, REFUSING, *ENDED}),
    TRAILERS: frozenset({ANSWERING, REFUSING, *ENDED}),
    ANSWERING: frozenset({IDLE, *ENDED}),
    FAST: frozenset({IDLE, *ENDED}),
    REFUSING: ENDED,
    LINGERING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}


def find_misfit() -> str | None:
    """Say why uvicorn's class is not the one that this file was written for; None where it is."""
    if not uvicorn.__version__.startswith(SUPPORTED_UVICORN):
        return f"uvicorn {uvicorn.__version__} was not tested"
    missing = REQUIRED_ATTRIBUTES - set(HttpToolsProtocol.__init__.__code__.co_names)
    return f"uvicorn's protocol has no {', '.join(sorted(missing))}" if missing else None


class ReceiveLimits(Struct, frozen=True):
    """Bytes of a request's head; seconds for its head, and for its body beyond what MIN_BODY_RATE allows."""

    head: int
    body: int
    seconds: float
    hosts: frozenset[bytes] = frozenset()


class GuardedProtocol(HttpToolsProtocol):
    """One connection; see the module's docstring.

    `_input[_at:]` came in and is not parsed yet. `_size` counts the bytes of the head, of the chunk's line or
    of the trailers that come in, `_left` what is missing of a body or chunk.
    """

    flow: Flow
    parser: httptools.HttpRequestParser

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a new connection: it must say something in time."""
        super().connection_made(transport)
        self.flow = Flow(transport)  # pyright: ignore[reportIncompatibleVariableOverride]
        self._state = IDLE
        self._limits: ReceiveLimits = self.app_state["receive_limits"]
        self._load: Load = self.app_state["load"]
        self._cycle_transport = CycleTransport(transport, self._end, self._is_far_from_whole)
        self._input = self._line = self._tail = self._start = b""
        self._at = self._size = self._left = self._body_size = self._lines = 0
        self._began = self._last_used = self._paused_at = self._paused_for = 0.0
        self._refusal: Problem | None = None
        self._progress_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        if self._load.connect():
            self._arm_keep_alive(self._limits.seconds)
        else:
            self._send_refusal(unavailable("Too many connections are open", "overload"))
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all that waits for the connection."""
        super().connection_lost(exc)
        self._load.connections -= 1
        self._stop_lingering()
        self._load.let_go(self)
        self._state = CLOSED
        self._cycle_transport.forget()
        self._unset_keepalive_if_required()
        for timer in (self._progress_timer, self._write_timer):
            if timer:
                timer.cancel()

    def pause_writing(self) -> None:
        """Limit the time that more than 64 KiB wait for the client, or for the network to say it is gone.

        Each pause ends when all but 16 KiB of these were taken: the more of an answer is taken, the longer
        may all its pauses be together.
        """
        super().pause_writing()
        self._paused_at = self.loop.time()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT - self._paused_for, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing: the client took them."""
        super().resume_writing()
        if self._write_timer:
            self._write_timer.cancel()
            paused = self.loop.time() - self._paused_at
            self._paused_for = max(0.0, self._paused_for + paused - TAKEN / MIN_READ_RATE)

    def data_received(self, data: bytes) -> None:
        """Parse what belongs to the request that comes in, and hold the rest until it is answered."""
        if self._state is LINGERING:
            self._left -= len(data)
            if self._left < 0:
                self._close()
            else:
                self.flow.hold()
                self.loop.call_later(LINGER_PAUSE * self._load.lingering, self._linger_on)
        elif self._state is not CLOSED and self._state is not REFUSING:
            self._input = self._input[self._at :] + data if self._input else data
            self._at = 0
            self._parse()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Note that nothing more will come. What did come is answered; uvicorn closes at once."""
        self.flow.ended = True
        if self._state is LINGERING:
            self._close()
        elif self._state is FAST:
            self.flow.hold()  # which the fast path looks for when it has answered
        else:
            self._settle()
        return True

    def _parse(self) -> None:
        """Parse until a request is whole whose answer is not."""
        deadline = 0.0
        while self._at < len(self._input) and (step := self.STEPS.get(self._state)):
            step(self)
            if self._state in RECEIVING:
                now = time.monotonic()  # uvloop's own time stands still within a turn
                deadline = deadline or now + MAX_TURN
                if now > deadline:
                    self.flow.hold()
                    self.loop.call_soon(self._parse)
                    return
        self._settle()

    def _settle(self) -> None:
        """Hold what may not be parsed yet, end where nothing more can come, watch over what comes in."""
        state = self._state
        if state in ENDED or state is REFUSING:
            return
        if self._at < len(self._input):
            self.flow.hold()
            return
        self._input, self._at = b"", 0
        if self.flow.held:
            self.flow.release()
        if self.flow.ended and state is IDLE:
            self._end()
        elif state not in RECEIVING:
            return
        elif self.flow.ended:
            self._refuse(malformed("The request ended before it was whole"))
        else:
            if self._progress_timer is None:
                self._progress_timer = self.loop.call_later(self._limits.seconds, self._check_progress)
            self._load.hold(self, self._size + min(self._body_size, self._limits.body))

    def _begin(self) -> None:
        """Begin a request with its first byte, behind line ends (RFC 9112, 2.2)."""
        if self._input[self._at] in b"\r\n" and (found := LINE_ENDS.match(self._input, self._at)):
            self._at = found.end()
        if self._at < len(self._input):
            self._state = HEAD
            self._began = self.loop.time()
            self._tail = self._start = b""
            self._size = self._body_size = self._lines = 0
            self._receive_head()

    def _receive_head(self) -> None:
        """Feed the head, and nothing behind it. Callbacks of the parser say what comes next."""
        end = self._input.find(b"\r\n\r\n", self._at) + 4
        if not self._size and 4 <= end <= self._at + self._limits.head:  # all of it is there
            piece = self._input[self._at : end]
            self._at, self._size = end, len(piece)
            self._feed_head(piece)
        else:
            self._receive_part_of_head()
        if self._state is HEAD and self._size >= self._limits.head:
            self._refuse(self._head_too_large())

    def _receive_part_of_head(self) -> None:
        """Feed what came of a head that is cut, or too large."""
        piece = self._input[self._at : self._at + self._limits.head - self._size]
        joined = self._tail + piece  # the empty line may be cut
        if end := joined.find(b"\r\n\r\n") + 1:
            piece = piece[: end + 3 - len(self._tail)]
        self._tail = joined[-3:]
        self._take(piece)
        self._feed_head(piece)

    def _feed_head(self, piece: bytes) -> None:
        """Feed a part of a head, unless it has too many lines: each field costs 3 µs, and memory."""
        self._lines += piece.count(b"\n")
        if self._lines > MAX_FIELDS + 2:  # the request line, and the empty one
            detail = f"A request may have {MAX_FIELDS} header fields"
            self._refuse(Problem(431, detail, code="head-too-large"))
            return
        if b"\n" not in self._start:
            self._start += piece
            if is_begun(self._start):
                return
            try:
                self._start = piece = read_as_1_1(self._start)
            except Problem as problem:
                self._refuse(problem)
                return
        self._feed(piece)

    def _receive_whole_chunks(self) -> bool:
        """Feed chunks that are all there together: cut one by one, small ones take five times as long."""
        end, last, body_size = self._at, self._at + FEED_SIZE, self._body_size
        while end < last and (line := PLAIN_CHUNK_LINE.match(self._input, end)):
            size = int(line[1], 16) + 2
            if size == 2 or line.end() + size > len(self._input):
                break
            end = line.end() + size
            body_size += size
        piece = self._input[self._at : end]
        self._at, self._body_size = end, body_size
        if piece:
            self._feed(piece)
        return bool(piece)

    def _receive_chunk_line(self) -> None:
        """Feed the line before a chunk. The parser checks it; its number tells how much may follow."""
        if not self._line and self._receive_whole_chunks():
            return
        self._feed(self._take_line())
        if self._state is not CHUNK_LINE:
            return
        if self._line.endswith(b"\n"):
            size = CHUNK_SIZE.match(self._line)
            self._left = int(size[0], 16) + 2 if size else 2
            self._state = BODY if self._left > 2 else TRAILERS
            self._line, self._size = b"", 0
        elif self._size >= self._limits.head:
            self._refuse(malformed(f"The line before a chunk may have {self._limits.head} bytes"))

    def _receive_body(self) -> None:
        """Feed the bytes of a body, or of a chunk with its line end."""
        piece = self._input[self._at : self._at + self._left]
        self._at += len(piece)
        self._left -= len(piece)
        self._body_size += len(piece)
        self._feed(piece)
        if self._left == 0 and self._state is BODY:  # a Content-Length would have ended the request
            self._state = CHUNK_LINE
            self._line, self._size = b"", 0

    def _receive_trailers(self) -> None:
        """Drop trailers; the parser sees the empty line behind them."""
        self._take_line()
        if self._line == b"\r\n":
            self._line = b""
            self._feed(b"\r\n")
        elif self._size >= self._limits.head:
            self._refuse(self._head_too_large())
        elif self._line.endswith(b"\n"):
            if not TRAILER.fullmatch(self._line):
                self._refuse(malformed("This is not HTTP/1.1"))
            self._line = b""

    def _take(self, piece: bytes) -> None:
        self._at += len(piece)
        self._size += len(piece)

    def _take_line(self) -> bytes:
        """Take what came of a line, to its end or to the limit, and add it to `_line`."""
        most = self._at + self._limits.head - self._size
        end = self._input.find(b"\n", self._at, most) + 1
        piece = self._input[self._at : end or most]
        self._take(piece)
        self._line += piece
        return piece

    def _feed(self, piece: bytes) -> None:
        """Have the parser call back; refuse what it does not take, or what a callback refused."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # nothing is upgraded (RFC 9110, 7.8), and a head was fed to its end
        except httptools.HttpParserError:
            self._refuse(self._refusal or explain(self._start, self.headers))

    def on_headers_complete(self) -> None:
        """Start the app, and see what follows the head. Raises what ends the parsing."""
        version = self.parser.get_http_version()
        chunked, length = measure_body(self.headers)
        has_body = chunked or length > 0
        try:
            check_head(self.url, version, self.headers, self._limits.hosts)
            if has_body and self.parser.should_upgrade():  # the parser does not see the body
                raise malformed("A request that asks for an upgrade may have no body")
        except Problem as problem:
            self._refusal = problem
            raise
        if self.url == b"*":
            self.url = OPTIONS_ALL
        if self.expect_100_continue and (not has_body or version == "1.0"):
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        super().on_headers_complete()
        if version == "1.0":
            cast("Cycle", self.cycle).version = version
            self.cycle.keep_alive = self.parser.should_keep_alive()
        if b"%2" in self.url:
            self.scope["path"] = unquote_path(self.scope["raw_path"])
        if has_body:
            cast("Cycle", self.cycle).is_chunked = chunked
            self._state = CHUNK_LINE if chunked else BODY
            self._left, self._size, self._line = length, 0, b""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Make uvicorn's cycle one of ours, for which it has no place."""
        cycle.__class__ = Cycle
        cycle.transport = self._cycle_transport  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
        self._load.start(partial(super()._start_asgi_task, cycle, app))

    def _is_far_from_whole(self) -> bool:
        """Return whether more of the body is still to come than is worth keeping the connection for."""
        return self._state is BODY and self._left > DRAIN_SIZE

    def on_message_complete(self) -> None:
        """Wait for the answer, unless it came before the request was whole."""
        super().on_message_complete()
        if self.cycle.response_complete:
            self._state = IDLE
            self._note_use()
            return
        self._state = ANSWERING
        if self._body_size > LARGE:
            self._load.hold(self, min(self._body_size, self._limits.body))

    def on_response_complete(self) -> None:
        """Go on with what was held, with the rest of the body, or not at all.

        In place of uvicorn's, which looks for pipelined requests, and sets a timer for each.
        """
        self.server_state.total_requests += 1
        self._load.let_go(self)
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._note_use()
        if self._state is ANSWERING:
            self._state = IDLE
            self._continue()
        elif self._state is REFUSING:
            self._end()

    def _continue(self) -> None:
        """Go on after an answer, where there is something to go on with."""
        if self._input or self.flow.held or self.flow.ended:
            self._parse()

    def shutdown(self) -> None:
        """End the connection as soon as what is asked on it is answered."""
        if not self.cycle or self.cycle.response_complete or self._state is LINGERING:
            self._close()
        else:
            self.cycle.keep_alive = False

    def _note_use(self) -> None:
        """Note when the connection was used last. A timer for each request would cost 2 µs."""
        if not self._last_used:  # until now the timeout was that of a connection that says nothing
            self._arm_keep_alive(self.timeout_keep_alive)
        self._last_used = self.loop.time()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; look again later at one that was used meanwhile."""
        if self._state is not IDLE:
            self._arm_keep_alive(self.timeout_keep_alive)
        elif self._last_used and (rest := self._last_used + self.timeout_keep_alive - self.loop.time()) > 0:
            self._arm_keep_alive(rest)
        else:  # what the network has brought already is read before this: it is no idle connection
            self._unset_keepalive_if_required()
            self.loop.call_soon(self.loop.call_soon, self._close_idle, self._last_used)

    def _close_idle(self, last_used: float) -> None:
        """Close a connection, unless something came in since it was looked at."""
        if self._state is IDLE and last_used == self._last_used:
            self._close()
        elif self._state not in ENDED:
            self._arm_keep_alive(self.timeout_keep_alive)

    def _arm_keep_alive(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _head_too_large(self) -> Problem:
        return Problem(431, f"A request's head may have {self._limits.head} bytes", code="head-too-large")

    def _check_progress(self) -> None:
        """Answer 408 where the request does not come in fast enough, unless it is us who do not read."""
        self._progress_timer = None
        if self._state not in RECEIVING:
            return
        now = self.loop.time()
        if self.flow.read_paused:
            self._began = now
        rest = self._began + self._limits.seconds + self._body_size / MIN_BODY_RATE - now
        if rest > 0:
            self._progress_timer = self.loop.call_later(rest, self._check_progress)
        else:
            self._refuse(Problem(408, "The request did not come in time", code="too-slow"))

    def _refuse(self, problem: Problem) -> None:
        """End the request that comes in: at once, or when the app asks for what is refused."""
        if self.transport.is_closing():
            self._close()
        elif self._state is HEAD:
            self._send_refusal(problem)
            self._end()
        elif self.cycle.response_complete:
            self._end()
        else:
            self._state = REFUSING
            self._input, self._at = b"", 0
            self.flow.hold()
            cast("Cycle", self.cycle).cut_off(lambda: self._send_refusal(problem))

    def _send_refusal(self, problem: Problem) -> None:
        request_id = make_request_id()
        answer = answer_problem(problem, request_id)
        defaults, lines = join_lines(self.server_state.default_headers), join_lines(answer.raw_headers)
        self.transport.write(
            frame(answer.status_code, defaults, lines, request_id, bytes(answer.body), CLOSING)
        )

    def _end(self) -> None:
        """End after the last answer; linger where the client may still be sending."""
        if self._state in ENDED:
            return
        idle = self._state in (IDLE, ANSWERING, FAST)
        if self.flow.ended or self.transport.is_closing() or (idle and not self.flow.held):
            self._close()
            return
        self._state = LINGERING
        self._load.lingering += 1
        self._load.let_go(self)
        self._input, self._at, self._left = b"", 0, LINGER_SIZE
        self._unset_keepalive_if_required()
        if self._progress_timer:
            self._progress_timer.cancel()
        self._progress_timer = self.loop.call_later(LINGER_TIMEOUT, self._close)
        self.transport.write_eof()
        self.flow.release()
        self.flow.resume_reading()  # whatever the app has not taken

    def _linger_on(self) -> None:
        if self._state is LINGERING:
            self.flow.release()

    def give_way(self) -> None:
        """Refuse the request that comes in: all that come in together are too much."""
        if self._state in RECEIVING:
            self._load.let_go(self)
            self._refuse(unavailable("Too much comes in at once", "overload"))

    def _stop_lingering(self) -> None:
        if self._state is LINGERING:
            self._load.lingering -= 1

    def _close(self) -> None:
        self._stop_lingering()
        if self._state is not CLOSED:
            self._state = CLOSED
            self.transport.close()

    STEPS: ClassVar[Mapping[State, Callable[..., None]]] = {
        IDLE: _begin,
        HEAD: _receive_head,
        BODY: _receive_body,
        CHUNK_LINE: _receive_chunk_line,
        TRAILERS: _receive_trailers,
    }
    """What parses one part of the input; in other states nothing may be parsed."""
