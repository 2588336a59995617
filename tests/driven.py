"""The protocol on a transport in memory, so that every interleaving can be driven, one step at a time."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from svc.edge import Edge
from svc.guard import ReceiveLimits
from svc.hot import HotProtocol, ShortCuts
from svc.web import Operation, ShortCut, answer
from tests.raw import normalise

LIMIT = 4096
TURNS = 12
"""Turns of the event loop after which nothing happens any more but by a timer; a request takes seven."""


class MemoryTransport(asyncio.Transport):
    """Keeps what is written, and delivers what a client sends as a socket does: not while reading is paused."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.protocol = protocol
        self.written = b""
        self.closed = self.paused = False
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
        self.written += bytes(data)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

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


def make_app(gate: Gate) -> ASGIApp:
    """An app that tells what it was given, after it read the body, or before it (`/early`)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        if scope["path"] != "/early":
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                if not message["more_body"]:
                    break
        await gate()
        told = repr((scope["method"], scope["raw_path"], scope["headers"], body))
        await answer({"told": told})(scope, receive, send)

    return app


class Conversation:
    """One connection, and an app behind it whose answers wait at a gate."""

    def __init__(self, *, short_cut: bool, is_open: bool = True, limit: int = LIMIT) -> None:
        self.gate = Gate(is_open=is_open)
        config = uvicorn.Config(
            Edge(make_app(self.gate), log_requests=False), ws="none", log_config=None, access_log=False
        )
        config.load()
        short_cuts = ShortCuts([self._make_operation()], lambda *_: True, log_requests=False)
        state = {
            "receive_limits": ReceiveLimits(limit, 100.0),
            "short_cuts": short_cuts if short_cut else None,
        }
        server_state = ServerState()
        server_state.default_headers = [(b"date", b"now")]
        self.protocol = HotProtocol(config, server_state, state, asyncio.get_running_loop())
        self.transport = MemoryTransport(self.protocol)
        self.protocol.connection_made(self.transport)

    def _make_operation(self) -> Operation:
        def ask(number: int, tell: Callable[[object, Exception | None], None]) -> None:
            self.gate.meet(lambda: tell(number, None))

        def respond(number: int, _: object) -> Any:
            told = repr(("GET", b"/hot/%d" % number, self.headers, b""))
            return answer({"told": told})

        def read(end: bytes) -> int | None:
            return int(end) if end.isdigit() else None

        return Operation("GET", "/hot/{id}", respond, short_cut=lambda: ShortCut(read, ask, respond))

    headers: Sequence[tuple[bytes, bytes]] = [(b"host", b"x")]
    """Of each request that takes the short cut."""

    async def settle(self) -> None:
        """Waits until nothing happens any more."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def finish(self) -> tuple[bytes, bool]:
        """All that was said, and whether the connection is closed, once all answers have passed the gate."""
        await self.settle()
        while self.gate.let_one_pass():
            await self.settle()
        return normalise(self.transport.written), self.transport.closed


def talk(pieces: Iterable[bytes | None], *, short_cut: bool, held_for: int = 0) -> tuple[bytes, bool]:
    """What is said to these pieces, None for a half-close; answers wait for the first so many of them."""

    async def run() -> tuple[bytes, bool]:
        conversation = Conversation(short_cut=short_cut, is_open=not held_for)
        for number, piece in enumerate(pieces, 1):
            conversation.transport.send(piece)
            await conversation.settle()
            if number == held_for:
                conversation.gate.is_open = True
                while conversation.gate.let_one_pass():
                    await conversation.settle()
        result = await conversation.finish()
        conversation.transport.close()
        await conversation.settle()
        return result

    return asyncio.run(run())
