"""Who says nothing, sends too slowly or takes nothing is cut off in time, and nobody is before; on a clock that is driven."""

import math
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import pytest

from svc.http.protocol import LINGER_TIMEOUT, MIN_BODY_RATE, MIN_READ_RATE, TAKEN, WRITE_TIMEOUT
from tests.support.driven import KEEP_ALIVE, SECONDS, Conversation, runner
from tests.support.raw import get, make, statuses

HOT = get("/hot/7")
PLAIN = get("/x")
START = b"GET /x HTTP/1.1\r\nHost: x\r\n"
CHUNKS = make("POST /x HTTP/1.1", "Transfer-Encoding: chunked")


def post(path: str, size: int) -> bytes:
    return make(f"POST {path} HTTP/1.1", f"Content-Length: {size}")


class Slow(NamedTuple):
    """What a client sends, then again and again after so many seconds; what it hears, and until when."""

    start: bytes
    piece: bytes
    times: int
    pause: float
    codes: list[int]
    end: float


CLIENTS = {
    "nothing": Slow(b"", b"", 0, 0, [], SECONDS),
    "line ends": Slow(b"\r\n", b"\r\n", 9, 2, [], SECONDS),
    "half a head": Slow(PLAIN[:-2], b"", 0, 0, [408], SECONDS),
    "a byte now and then": Slow(START, b"X", 9, 2, [408], SECONDS),
    "header by header": Slow(START, b"X: 1\r\n", 9, 2, [408], SECONDS),
    "a body that stalls": Slow(post("/x", 3000) + b" " * 400, b"", 0, 0, [408], SECONDS + 400 / MIN_BODY_RATE),
    "a slow body": Slow(post("/x", 3000), b" " * 50, 9, 1.9, [408], SECONDS + 5 * 50 / MIN_BODY_RATE),
    "a body that keeps coming": Slow(post("/x", 8400), b" " * 280, 30, 0.5, [200], 30 * 0.5 + KEEP_ALIVE),
    "a chunk that stalls": Slow(CHUNKS + b"fff\r\n" + b" " * 400, b"", 0, 0, [408], SECONDS + 400 / MIN_BODY_RATE),
    "a slow line before a chunk": Slow(CHUNKS + b"1;", b"a", 9, 2, [408], SECONDS),
    "slow trailers": Slow(CHUNKS + b"0\r\n", b"a: b\r\n", 9, 2, [408], SECONDS),
    "a head behind a request": Slow(PLAIN, START, 1, 1, [200, 408], 1 + SECONDS),
    "a head behind two": Slow(HOT + PLAIN + START, b"", 0, 0, [200, 200, 408], SECONDS),
    "a body behind its answer": Slow(post("/early", 1000), b" ", 9, 2, [200], SECONDS),
    "nothing behind a late body": Slow(post("/early", 2), b"{}", 1, 1, [200], 1 + KEEP_ALIVE),
    "an idle connection": Slow(PLAIN, b"", 0, 0, [200], KEEP_ALIVE),
    "line ends behind a request": Slow(PLAIN, b"\r\n", 4, 2, [200], KEEP_ALIVE),
    "an idle connection on the short cut": Slow(HOT, b"", 0, 0, [200], KEEP_ALIVE),
    "the short cut now and then": Slow(HOT, HOT, 3, 4, [200] * 4, 3 * 4 + KEEP_ALIVE),
    "both ways in turns": Slow(HOT, PLAIN + HOT, 2, 4, [200] * 5, 2 * 4 + KEEP_ALIVE),
}  # fmt: skip


@pytest.mark.parametrize("short_cut", [True, False], ids=["short cut", "no short cut"])
@pytest.mark.parametrize("name", CLIENTS)
def test_who_is_slow_is_cut_off_in_time_and_not_before(name: str, short_cut: bool) -> None:
    client = CLIENTS[name]

    async def run() -> tuple[list[int], float]:
        conversation = Conversation(short_cut=short_cut)
        conversation.transport.send(client.start)
        await conversation.settle()
        seconds = 0.0
        for _ in range(client.times):
            seconds += await conversation.advance(client.pause)
            conversation.transport.send(client.piece)
            await conversation.settle()
        seconds += await conversation.advance(100)
        heard = conversation.heard()
        await conversation.close()
        return statuses(heard.said), seconds

    codes, end = runner().run(run())
    assert (codes, end) == (client.codes, pytest.approx(client.end, abs=0.11))


Act = Callable[[Conversation], Coroutine[Any, Any, None]]


def drive(act: Act, *, short_cut: bool = True) -> None:
    """Does this with a connection whose answers wait."""

    async def run() -> None:
        conversation = Conversation(short_cut=short_cut, is_open=False)
        await act(conversation)
        await conversation.close()

    runner().run(run())


@pytest.mark.parametrize("request_", [HOT, PLAIN, post("/x", 2) + b"{}"], ids=["short cut", "get", "post"])
def test_a_slow_handler_has_its_time_and_what_is_behind_its_own(request_: bytes) -> None:
    async def act(it: Conversation) -> None:
        it.transport.send(request_)
        it.transport.send(START)
        assert await it.advance(1000, step=1) == 1000
        await it.let_all_pass()
        assert await it.advance(SECONDS - 1) == SECONDS - 1
        assert statuses(it.heard().said) == [200]
        assert await it.advance(2) <= 1.1
        assert statuses(it.heard().said) == [200, 408]

    drive(act)


@pytest.mark.parametrize("turn", [math.inf, -1], ids=["in one turn", "in many"])
def test_a_client_is_not_too_slow_while_it_is_us_who_do_not_read(
    monkeypatch: pytest.MonkeyPatch, turn: float
) -> None:
    """However often others had their turn while its body was parsed."""
    monkeypatch.setattr("svc.http.protocol.MAX_TURN", turn)

    async def act(it: Conversation) -> None:
        it.transport.send(post("/late", 200_000) + b" " * 100_000)
        await it.settle()
        assert it.transport.paused
        assert await it.advance(100 * SECONDS, step=1) == 100 * SECONDS
        it.gate.let_one_pass()
        await it.settle()
        it.transport.send(b" " * 100_000)
        await it.settle()
        await it.let_all_pass()
        assert statuses(it.heard().said) == [200]

    drive(act)


def test_a_client_that_takes_enough_is_not_cut_off_and_one_that_takes_nothing_is() -> None:
    async def act(it: Conversation) -> None:
        it.transport.send(PLAIN)
        for _ in range(100):
            it.protocol.pause_writing()
            assert await it.advance(TAKEN // MIN_READ_RATE, step=1) == TAKEN // MIN_READ_RATE
            it.protocol.resume_writing()
        it.protocol.pause_writing()
        assert await it.advance(WRITE_TIMEOUT + 9, step=1) == WRITE_TIMEOUT

    drive(act)


def test_a_client_that_takes_a_little_now_and_then_is_cut_off() -> None:
    async def act(it: Conversation) -> None:
        it.transport.send(PLAIN)
        it.protocol.pause_writing()
        assert await it.advance(WRITE_TIMEOUT - 1, step=1) == WRITE_TIMEOUT - 1
        it.protocol.resume_writing()
        it.protocol.pause_writing()
        assert await it.advance(WRITE_TIMEOUT, step=1) == math.ceil(1 + TAKEN / MIN_READ_RATE)

    drive(act)


def test_a_client_that_was_refused_and_stays_is_cut_off() -> None:
    async def act(it: Conversation) -> None:
        it.transport.send(b"what is no HTTP\r\n\r\n")
        assert it.transport.ended
        assert not it.transport.closed
        it.transport.ended = False  # for time to go on
        assert await it.advance(100) == pytest.approx(LINGER_TIMEOUT, abs=0.11)
        assert it.transport.closed

    drive(act)
