"""The protocol on a transport in memory, so that every interleaving can be driven, one step at a time."""

import asyncio
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, ClassVar, NamedTuple

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from svc.http.answers import answer
from svc.http.fast_path import FastPath, FastProtocol
from svc.http.load import Load
from svc.http.middleware import ErrorHandler, RequestMiddleware
from svc.http.operations import FastRoute, Operation
from svc.http.protocol import TRANSITIONS, ReceiveLimits, State
from tests.support.raw import normalise

LIMIT = 4096
SECONDS = 10.0
KEEP_ALIVE = 5.0
TURNS = 24
"""Turns of the event loop after which nothing happens any more but by a timer; a request takes seven."""


class MemoryTransport(asyncio.Transport):
    """Keeps what is written, and delivers what a client sends as a socket does: not while reading is paused."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.protocol = protocol
        self.written = b""
        self.closed = self.ended = self.paused = False
        self._waiting: list[bytes | None] = []

    def send(self, piece: bytes | None) -> None:
        """What the client sends; None where it half-closes."""
        self._waiting.append(piece)
        self._deliver()

    def _deliver(self) -> None:
        while self._waiting and not self.paused and not self.closed:
            piece = self._waiting.pop(0)
            if piece is not None:
                self.protocol.data_received(piece)
            elif not self.protocol.eof_received():
                self.close()

    def write(self, data: Any) -> None:
        assert not self.closed
        assert not self.ended
        self.written += bytes(data)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def write_eof(self) -> None:
        assert not self.closed
        self.ended = True

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self._deliver)


class Gate:
    """Where answers wait until the test lets them pass, on the short cut and beside it."""

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self._waiting: list[Callable[[], object]] = []

    def meet(self, go_on: Callable[[], object]) -> None:
        """Goes on at once, or when it is this one's turn."""
        if self.is_open:
            asyncio.get_running_loop().call_soon(go_on)
        else:
            self._waiting.append(go_on)

    def let_one_pass(self) -> bool:
        """Whether there was one."""
        if self._waiting:
            self._waiting.pop(0)()
            return True
        return False

    async def __call__(self) -> None:
        passed = asyncio.Event()
        self.meet(passed.set)
        await passed.wait()


class WatchedProtocol(FastProtocol):
    """Holds each change of state to the table."""

    seen: ClassVar[set[tuple[State, State]]] = set()

    def __setattr__(self, name: str, value: object) -> None:
        if (
            name == "_state"
            and isinstance(value, State)
            and value is not (before := self.__dict__.get(name, value))
        ):
            assert value in TRANSITIONS[before], (before, value)
            self.seen.add((before, value))
        super().__setattr__(name, value)


class ClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until the test moves it."""

    now = 0.0

    def time(self) -> float:
        return self.now


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was given, after it read the body; without that (`/early`); or reads late (`/late`)."""
    if scope["path"] == "/late":
        await scope["state"]["gate"]()
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await scope["state"]["gate"]()
    told = repr((scope["method"], scope["raw_path"], scope["headers"], body))
    await answer({"told": told})(scope, receive, send)


async def never(_: object) -> Any:
    """Stands for the handler, which the app here does without."""
    raise NotImplementedError


ERRORS = ErrorHandler({}, log_values=False)


def make_operation(gate: Gate) -> Operation:
    """The short cut that tells the same."""

    def ask(number: int, tell: Callable[[object, Exception | None], None]) -> None:
        gate.meet(lambda: tell(number, None))

    def respond(number: int, _: object) -> Any:
        return answer({"told": repr(("GET", b"/hot/%d" % number, HOT_HEADERS, b""))})

    def read(end: bytes) -> int | None:
        return int(end) if end.isdigit() else None

    return Operation("GET", "/hot/{id}", never, {200: None}, fast=FastRoute(read, ask, respond))


HOT_HEADERS = [(b"host", b"x")]
"""Of each request that takes the short cut here."""


@cache
def make_config() -> uvicorn.Config:
    """uvicorn's settings, as the service has them."""
    config = uvicorn.Config(
        RequestMiddleware(app, ERRORS, log_requests=False), ws="none", log_config=None, access_log=False
    )
    config.timeout_keep_alive = KEEP_ALIVE  # type: ignore[assignment]
    config.load()
    return config


class Heard(NamedTuple):
    """What a client hears: all bytes, and whether that was all."""

    said: bytes
    ended: bool


class Conversation:
    """One connection, and an app behind it whose answers wait at a gate."""

    def __init__(self, *, short_cut: bool, is_open: bool = True, limit: int = LIMIT) -> None:
        self.gate = Gate(is_open=is_open)
        fast_path = FastPath([make_operation(self.gate)], None, ERRORS, log_requests=False)
        state: dict[str, Any] = {
            "load": Load(100, 2**25),
            "receive_limits": ReceiveLimits(limit, 2**18, SECONDS),
            "fast_path": fast_path if short_cut else None,
            "gate": self.gate,
        }
        server_state = ServerState()
        server_state.default_headers = [(b"date", b"now")]
        self.protocol = WatchedProtocol(make_config(), server_state, state, asyncio.get_running_loop())
        self.transport = MemoryTransport(self.protocol)
        self.protocol.connection_made(self.transport)

    async def settle(self) -> None:
        """Waits until nothing happens any more."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def advance(self, seconds: float, step: float = 0.1) -> float:
        """Lets time pass, up to the connection's end; how much it was."""
        loop, passed = asyncio.get_running_loop(), 0
        assert isinstance(loop, ClockLoop)
        while passed * step < seconds - step / 2 and not self.heard().ended:
            loop.now += step
            passed += 1
            await self.settle()
        return round(passed * step, 6)

    async def let_all_pass(self) -> None:
        """Lets one answer after another pass the gate."""
        while self.gate.let_one_pass():
            await self.settle()

    def heard(self) -> Heard:
        """What the client heard until now."""
        return Heard(normalise(self.transport.written), self.transport.closed or self.transport.ended)

    async def close(self) -> None:
        """Takes the connection away."""
        self.transport.close()
        await self.settle()


def talk(
    pieces: Iterable[bytes | None],
    *,
    short_cut: bool = False,
    held_for: int = 0,
    one: bool = False,
    limit: int = LIMIT,
) -> Heard:
    """What is heard after these pieces, None for a half-close.

    Answers wait until so many pieces are sent; then all may pass, or only `one`, and the others at the end.
    """

    async def run() -> Heard:
        conversation = Conversation(short_cut=short_cut, is_open=not held_for, limit=limit)
        for number, piece in enumerate(pieces, 1):
            conversation.transport.send(piece)
            await conversation.settle()
            if number == held_for and one:
                conversation.gate.let_one_pass()
                await conversation.settle()
            elif number == held_for:
                conversation.gate.is_open = True
                await conversation.let_all_pass()
        await conversation.let_all_pass()
        heard = conversation.heard()
        await conversation.close()
        return heard

    return runner().run(run())


@cache
def runner() -> asyncio.Runner:
    """One event loop for all: a new one takes longer than a conversation."""
    return asyncio.Runner(loop_factory=ClockLoop)
