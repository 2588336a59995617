"""What all connections of a worker hold together is bounded, whatever each of them may do."""

import json
import resource
import time
from collections.abc import Iterator

import pytest

from svc.http import load
from svc.http.load import SPARE_FILES, find_max_connections
from svc.http.protocol import DRAIN_SIZE, LINGER_SIZE, MAX_FIELDS
from tests.support import Service, with_settings
from tests.support.raw import Ground, Wire, get, make, status_of
from tests.support.things import serve_things

HELD = 2**20
PART = 200_000


def post(path: str, size: int, *lines: str) -> bytes:
    """A request with a body, up to the body."""
    return make(f"POST {path} HTTP/1.1", f"Content-Length: {size}", "Content-Type: application/json", *lines)


@pytest.fixture(params=[True, False], ids=["short cut", "no short cut"])
def bounded(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service of few connections, which holds a megabyte of requests."""
    config = with_settings(ground.config, short_cut=request.param, max_connections=20, max_held=HELD)
    with serve_things(config) as service:
        yield service


@pytest.mark.parametrize(("count", "status"), [(MAX_FIELDS, 200), (MAX_FIELDS + 1, 431)])
def test_a_request_has_a_hundred_fields_at_most(
    bounded: Service, ground: Ground, count: int, status: int
) -> None:
    request = get("/things/1", ground.bearer, *["a: b"] * (count - 2))  # with Host
    with Wire(bounded) as wire:
        answer = wire.ask(get("/things/1", ground.bearer)) and wire.ask(request)
    assert status_of(answer) == status
    assert (b"head-too-large" in answer) == (status == 431)


def send_until_cut_off(wire: Wire, piece: bytes, pieces: int) -> int:
    """Send for as long as somebody takes it; return how many bytes that were."""
    for number in range(pieces):
        try:
            wire.socket.sendall(piece)
        except OSError:
            return number * len(piece)
    return pieces * len(piece)


LONG = 256 * 2**20


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_nobody_asked_for_is_not_read_to_its_end(bounded: Service, chunked: bool) -> None:
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n" if chunked else b"x" * 0x10000
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {LONG}"
    with Wire(bounded) as wire:
        wire.send(f"POST /nowhere HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        answer = wire.read()
        assert status_of(answer) == 404
        assert b"\r\nconnection: close\r\n" in answer  # or a proxy sends another request while we close
        taken = send_until_cut_off(wire, piece, LONG // len(piece))
    assert taken < LINGER_SIZE + DRAIN_SIZE + 32 * 2**20  # what the network holds as well


def test_a_small_body_that_nobody_asked_for_keeps_its_connection(bounded: Service, ground: Ground) -> None:
    with Wire(bounded) as wire:
        for size in (0, 10, DRAIN_SIZE):
            wire.send(post("/nowhere", size), b"x" * size)
            assert status_of(wire.read()) == 404
        assert status_of(wire.ask(get("/things/1", ground.bearer))) == 200


def test_too_many_connections_are_refused_and_the_log_says_so_once_in_a_while(
    bounded: Service, ground: Ground, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "LOG_INTERVAL", 3600.0)
    wires = [Wire(bounded) for _ in range(20)]
    for wire in wires:
        assert status_of(wire.ask(get("/things/1", ground.bearer))) == 200
    for _ in range(10):
        with Wire(bounded) as another:
            answer = another.read_all()
            assert status_of(answer) == 503
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "urn:bareline:problem:overload"
    assert [status_of(wire.ask(get("/things/1", ground.bearer))) for wire in wires] == [200] * 20
    assert caplog.messages.count("clients are refused: 20 connections are open") == 1
    for wire in wires:
        wire.socket.close()


def test_where_too_much_comes_in_the_oldest_goes(bounded: Service, ground: Ground) -> None:
    wires = []
    for _ in range(10):
        wire = Wire(bounded)
        wire.send(post("/things", PART + 1, ground.bearer), b" " * PART)
        wires.append(wire)
        time.sleep(0.02)
    for wire in wires[:3]:
        answer = wire.read_all()
        assert status_of(answer) == 503, answer
        assert b"Too much comes in at once" in answer
    for wire in wires[-3:]:
        wire.send(b"x")
        assert status_of(wire.read()) == 400  # all of it came, and it is no JSON
    with Wire(bounded) as neighbour:
        assert status_of(neighbour.ask(get("/things/1", ground.bearer))) == 200
    for wire in wires:
        wire.socket.close()


def test_what_was_held_is_forgotten(bounded: Service, ground: Ground) -> None:
    for _ in range(3 * HELD // PART):
        with Wire(bounded) as wire:
            wire.send(post("/things", PART + 1, ground.bearer), b" " * PART)
    for _ in range(3 * HELD // PART):
        with Wire(bounded) as wire:
            wire.send(post("/things", PART, ground.bearer), b" " * (PART - 5))
            wire.send(b"xxxxx")
            assert status_of(wire.read()) == 400


def test_connections_are_no_more_than_the_files_that_may_be_open() -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert find_max_connections(10, 20) == 10
    assert find_max_connections(2**30, 20) == files - 20 - SPARE_FILES
