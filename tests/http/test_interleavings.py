"""An answer depends on the bytes of a request, and neither on how they are cut nor on what else goes on."""

import itertools
import math
from collections.abc import Iterator

import pytest

from svc.http.protocol import TRANSITIONS
from tests.support.driven import Conversation, Heard, WatchedProtocol, runner, talk
from tests.support.raw import cut, get, make, statuses, unescape

LIMIT = 300


@pytest.fixture(autouse=True)
def same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids have one length, so that all answers with one have, too; and no turn ends by the clock."""
    monkeypatch.setattr("svc.http.headers.COUNTER", itertools.count(1 << 24))
    monkeypatch.setattr("svc.http.protocol.MAX_TURN", math.inf)


AFTER = get("/after")
HOT = get("/hot/7")


def post(path: str, body: str, *lines: str) -> bytes:
    return make(f"POST {path} HTTP/1.1", *lines) + body.encode().decode("unicode_escape").encode("latin-1")


def sized(path: str, *lines: str) -> bytes:
    return post(path, "abcde", "Content-Length: 5", *lines)


def chunked(path: str, *trailers: str, lines: tuple[str, ...] = (), last: str = "0") -> bytes:
    body = rf"3\r\nabc\r\n2;a=b\r\nde\r\n{last}\r\n" + "".join(rf"{line}\r\n" for line in (*trailers, ""))
    return post(path, body, "Transfer-Encoding: chunked", *lines)


def padded(request: bytes, size: int, padding: str = "a") -> bytes:
    """A request whose head has that size."""
    start, end = b"X: ", b"b\r\n\r\n"
    room = size - len(request) + 2 - len(start) - len(end)
    return request[:-2] + start + padding.encode() * room + end


TRAILERS = unescape(r"""
A: b | Authorization: Bearer x | Host: y\r\nX-Request-Id: mine | Expect: 100-continue | Connection: upgrade\r\nUpgrade: h2c
Connection: close | Content-Length: 7 | Content-Length: x | Transfer-Encoding: gzip | Transfer-Encoding: chunked | A:\xe9 | A:
""")

EXPECT = "Expect: 100-continue"

SOUND: dict[str, tuple[list[bytes], list[int]]] = {
    "two plain ones": ([HOT, HOT], [200, 200]),
    "plain ones and others": ([HOT, AFTER, HOT, AFTER], [200] * 4),
    "a plain one behind a body": ([sized("/x"), HOT, sized("/x"), HOT], [200] * 4),
    "a body in chunks": ([chunked("/x"), AFTER], [200, 200]),
    "a body in chunks behind a plain one": ([HOT, chunked("/x", last="000;a"), HOT], [200] * 3),
    "an answer before the body": ([sized("/early"), HOT], [200, 200]),
    "an answer before the chunks": ([chunked("/early", "A: b"), AFTER], [200]),
    "an empty body": ([post("/x", "", "Content-Length: 0"), HOT], [200, 200]),
    "line ends between": ([b"\r\n\r\n", HOT, b"\r\n", AFTER, b"\r\n\r\n\r\n", sized("/x"), b"\r\n"], [200] * 3),
    "a body that looks like requests": ([post("/x", r"\r\n\r\nGET /hot/7 HTTP/1.1\r\n\r\n", "Content-Length: 27"), HOT], [200, 200]),
    "an expectation": ([sized("/x", EXPECT), HOT], [100, 200, 200]),
    "an expectation in chunks": ([HOT, chunked("/x", lines=(EXPECT,)), HOT], [200, 100, 200, 200]),
    "an expectation that nobody reads": ([sized("/early", EXPECT), HOT], [200]),
    "an expectation of nothing": ([get("/early", EXPECT), HOT], [200, 200]),
    "a last one": ([HOT, get("/x", "Connection: close"), HOT], [200, 200]),
    "a last one with a body": ([sized("/x", "Connection: close"), HOT], [200]),
    "a last one answered early": ([chunked("/early", lines=("Connection: close",)), HOT], [200]),
    "HTTP/1.0": ([HOT, make("GET /hot/7 HTTP/1.0"), HOT], [200, 200]),
    "HTTP/1.0 with an expectation": ([make("POST /x HTTP/1.0", EXPECT, "Content-Length: 2") + b"ab"], [200]),
    "an upgrade": ([get("/x", "Connection: Upgrade", "Upgrade: h2c"), HOT, AFTER], [200] * 3),
    "a head at the limit": ([HOT, padded(AFTER, LIMIT), HOT], [200] * 3),
    "a head of blanks at the limit": ([padded(AFTER, LIMIT, " "), HOT], [200, 200]),
}  # fmt: skip
"""Pieces of a conversation, and what is answered."""

REFUSED: dict[str, tuple[list[bytes], list[int]]] = {
    "no HTTP": ([HOT, b"what is no HTTP\r\n\r\n", HOT], [200, 400]),
    "a blank before a method": ([AFTER, b" GET / HTTP/1.1\r\n\r\n"], [200, 400]),
    "a header without a colon": ([get("/x", "no colon"), HOT], [400]),
    "two lengths": ([HOT, AFTER, get("/x", "Content-Length: 1", "Content-Length: 2")], [200, 200, 400]),
    "an upgrade with a body": ([sized("/x", "Connection: Upgrade", "Upgrade: h2c"), HOT], [400]),
    "CONNECT": ([HOT, make("CONNECT example.com:443 HTTP/1.1"), HOT], [200, 400]),
    "a head above the limit": ([HOT, padded(AFTER, LIMIT + 1), HOT], [200, 431]),
    "a head of blanks above the limit": ([sized("/x"), padded(AFTER, LIMIT + 1, " "), HOT], [200, 431]),
    "a path above the limit": ([get("/" + "a" * LIMIT)], [431]),
    "no HTTP above the limit": ([AFTER, padded(AFTER, LIMIT)[:-2] + b"no colon\r\n\r\n"], [200, 431]),
    "trailers above the limit": ([chunked("/x", *["A: b"] * 60), HOT], [431]),
    "a trailer above the limit": ([HOT, chunked("/x", "A:" + " " * LIMIT)], [200, 431]),
    "a line before a chunk above the limit": ([chunked("/x", last="0;" + "a" * LIMIT), HOT], [400]),
    "a malformed chunk": ([HOT, post("/x", r"3\r\nabc\r\nno chunk\r\n", "Transfer-Encoding: chunked")], [200, 400]),
    "a chunk that is too long": ([post("/x", r"3\r\nabcd\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), HOT], [400]),
    "a malformed trailer": ([HOT, chunked("/x", "no trailer"), HOT], [200, 400]),
    "a trailer on two lines": ([chunked("/x", "A: b", " c"), HOT], [400]),
    "a malformed chunk behind an early answer": ([HOT, post("/early", r"3\r\nabc\r\nno\r\n", "Transfer-Encoding: chunked")], [200, 200]),
    "a malformed trailer behind an early answer": ([chunked("/early", "no trailer"), HOT], [200]),
    "a malformed chunk that was expected": ([post("/x", r"x\r\n", "Transfer-Encoding: chunked", EXPECT)], [100, 400]),
}  # fmt: skip
"""Behind the last answer the connection ends."""

CUT_SHORT: dict[str, tuple[list[bytes], list[int]]] = {
    "nothing": ([], []),
    "a line end": ([b"\r\n"], []),
    "half a head": ([HOT, AFTER[:-2]], [200, 400]),
    "half a body": ([HOT, sized("/x")[:-2]], [200, 400]),
    "half a body behind an early answer": ([sized("/early")[:-2]], [200]),
    "half a chunk": ([chunked("/x")[:-13]], [400]),
    "half a line before a chunk": ([chunked("/x")[:-4]], [400]),
    "half of the trailers": ([HOT, chunked("/x", "A: b")[:-2]], [200, 400]),
    "half of a body that was expected": ([sized("/x", EXPECT)[:-2]], [100, 400]),
}
"""What ends before it is whole."""

LAST = (
    "an answer before the chunks",
    "an expectation that nobody reads",
    "a last one",
    "a last one with a body",
    "a last one answered early",
)
LAST += ("HTTP/1.0", "HTTP/1.0 with an expectation")
"""The connection ends where nothing was refused."""

STREAMS = {
    **{name: (pieces, codes, False) for name, (pieces, codes) in (SOUND | REFUSED).items()},
    **{f"{name}, closed": (pieces, codes, True) for name, (pieces, codes) in (SOUND | CUT_SHORT).items()},
    **{f"trailers {line}": ([chunked("/x", line), AFTER], [200, 200], False) for line in TRAILERS},
}


Way = tuple[list[bytes | None], int, bool]
"""What can happen to bytes and answers: the pieces, how many come before an answer may, whether only one may."""


def interleave(data: bytes, *, is_closed: bool) -> Iterator[Way]:
    """All the ways of two pieces, and those of single bytes around each line end."""
    end = [None] if is_closed else []
    for place in range(1, len(data)):
        pieces = [*cut(data, [place]), *end]
        yield from ((pieces, 0, False), (pieces, 1, False), (pieces, 1, True), (pieces, 2, False))
    single = [*cut(data, range(len(data))), *end]
    for place in (0, *(place for place in range(len(data)) if data[place : place + 1] == b"\n"), len(single)):
        yield from ((single, place, False), (single, place, True))


@pytest.mark.parametrize("name", STREAMS)
def test_answers_do_not_depend_on_what_came_when(name: str, pytestconfig: pytest.Config) -> None:
    pieces, codes, is_closed = STREAMS[name]
    data = b"".join(pieces)
    expected = talk([data, None] if is_closed else [data], limit=LIMIT)
    assert statuses(expected.said) == codes
    assert expected.ended == (is_closed or name in REFUSED or name in LAST)
    ways = itertools.product((False, True), interleave(data, is_closed=is_closed))
    every = 1 if pytestconfig.getoption("--full") else 23
    for short_cut, (cuts, held_for, one) in itertools.islice(ways, 0, None, every):
        heard = talk(cuts, short_cut=short_cut, held_for=held_for, one=one, limit=LIMIT)
        assert heard == expected, (cuts, short_cut, held_for, one)


def test_answers_do_not_depend_on_pauses_between_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long to parse is parsed in several turns of the event loop; here each part has its own."""
    for pieces, _, is_closed in STREAMS.values():
        stream = [b"".join(pieces), None] if is_closed else [b"".join(pieces)]
        expected = talk(stream, limit=LIMIT)
        with monkeypatch.context() as patch:
            patch.setattr("svc.http.protocol.MAX_TURN", -1)
            patch.setattr("tests.support.driven.TURNS", 200)
            assert talk(stream, limit=LIMIT) == expected


async def vanish(data: bytes, *, is_open: bool) -> None:
    """A client that is gone after these bytes, answered or not."""
    conversation = Conversation(short_cut=True, is_open=is_open, limit=LIMIT)
    conversation.transport.send(data)
    await conversation.settle()
    await conversation.close()
    await conversation.let_all_pass()
    assert conversation.protocol not in conversation.protocol.connections
    assert not conversation.protocol.tasks


async def shut_down(*pieces: bytes) -> Heard:
    """What is heard by a client that sent these bytes when the service is told to stop."""
    conversation = Conversation(short_cut=True, is_open=False, limit=LIMIT)
    for piece in pieces:
        conversation.transport.send(piece)
    await conversation.settle()
    conversation.protocol.shutdown()
    await conversation.let_all_pass()
    heard = conversation.heard()
    await conversation.close()
    return heard


def test_a_shutdown_answers_what_is_asked_and_nothing_behind_it() -> None:
    for request, rest in itertools.product((HOT, AFTER, sized("/x"), chunked("/x")), (b"", AFTER, HOT[:-1])):
        expected = talk([request])
        heard = runner().run(shut_down(request, rest))
        assert heard.ended
        assert heard.said.replace(b"connection: close\r\n", b"", 1) == expected.said != heard.said
        for size in range(len(request) - 9):  # before the app runs, or while it reads
            heard = runner().run(shut_down(request[:size]))
            assert (heard.said, heard.ended) == (b"", b"\r\n\r\n" not in request[:size])


def test_each_change_of_state_happens_and_no_other() -> None:
    WatchedProtocol.seen.clear()
    runner().run(shut_down(HOT, HOT))
    runner().run(vanish(HOT, is_open=False))
    for pieces, _, is_closed in STREAMS.values():
        data = b"".join(pieces)
        for cuts, held_for, one in itertools.islice(interleave(data, is_closed=is_closed), 0, None, 37):
            talk(cuts, short_cut=True, held_for=held_for, one=one, limit=LIMIT)
        for size in range(0, len(data), 10):
            runner().run(vanish(data[:size], is_open=size % 20 == 0))
    table = {(before, after) for before, possible in TRANSITIONS.items() for after in possible}
    assert WatchedProtocol.seen == table


def test_trailers_change_nothing() -> None:
    plain = talk([chunked("/x") + AFTER])
    assert statuses(plain.said) == [200, 200]
    for line in TRAILERS:
        assert talk([chunked("/x", line) + AFTER]) == plain
