"""Limits on receiving, for all requests on the port: 400, 408 and 431, with the short cut and without."""

import gc
import json
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

import svc.http.protocol
from svc.config import Config, load
from svc.http.fast_path import LONGEST_HEAD, FastProtocol
from svc.http.load import Load
from svc.http.operations import Operation
from svc.http.protocol import LINGER_SIZE, REQUIRED_ATTRIBUTES, ReceiveLimits, find_misfit
from svc.http.resource import Resource
from svc.server import find_protocol
from tests.support import Service, with_settings
from tests.support.raw import (
    LAST,
    Ground,
    Wire,
    get,
    make,
    normalise,
    serve,
    status_of,
    statuses,
)
from tests.support.waiting import wait_for

LIMIT = 4096
SECONDS = 0.5


@pytest.fixture(scope="module", params=[True, False], ids=["short cut", "no short cut"])
def service(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Service]:
    with serve(with_settings(ground.config, short_cut=request.param, max_head=LIMIT)) as service:
        yield service


@pytest.fixture(scope="module", params=[True, False], ids=["short cut", "no short cut"])
def hasty(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service that waits for nobody for long."""
    config = with_settings(ground.config, short_cut=request.param, request_timeout=SECONDS)
    with serve(config, timeout_keep_alive=SECONDS) as service:
        yield service


def post(path: str, size: int, *lines: str) -> bytes:
    """The head of a POST with a body of that size."""
    return make(f"POST {path} HTTP/1.1", "Content-Type: application/json", f"Content-Length: {size}", *lines)


def chunked(path: str, *lines: str) -> bytes:
    """The head of a POST whose body comes in chunks."""
    return make(
        f"POST {path} HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked", *lines
    )


def check_refusal(answer: bytes, status: int, code: str) -> None:
    """Holds that an answer is the problem of a refusal, and that it ends the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(head) == status, answer
    document = json.loads(body)
    assert document["type"] == f"urn:bareline:problem:{code}"
    lines = normalise(head + b"\r\n").split(b"\r\n")
    assert {b"date: *", b"content-type: application/problem+json", b"connection: close"} <= {*lines}
    assert f"\r\nx-request-id: {document['request_id']}\r\n".encode() in head


START = b"GET /things/1 HTTP/1.1\r\nHost: x\r\n"
BODY_START = chunked("/things")

TOO_LARGE: dict[str, tuple[bytes, bytes]] = {
    "a head in one piece": (b"", get("/things/1", "X: " + "a" * LIMIT)),
    "a path in one piece": (b"", get("/things/" + "1" * LIMIT)),
    "an endless header": (START + b"X: ", b"a" * 1000),
    "an endless name": (START, b"a" * 1000),
    "endless headers": (START, b"a: b\r\n" * 100),
    "an endless path": (b"GET /", b"a" * 1000),
    "an endless query": (b"GET /things?", b"a" * 1000),
    "endless spaces": (START + b"X:", b" " * 1000),
    "endless trailers": (BODY_START + b"0\r\n", b"a: b\r\n" * 100),
    "an endless trailer": (BODY_START + b"0\r\nX: ", b"a" * 1000),
    "an endless head behind a request": (get("/health/live")[:-2] + b"\r\nGET /", b"a" * 1000),
}


@pytest.mark.parametrize("pause", [0, 0.002], ids=["at once", "dripped"])
@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_head_that_is_too_large_is_refused(
    service: Service, ground: Ground, name: str, pause: float
) -> None:
    start, more = TOO_LARGE[name]
    with Wire(service) as wire:
        wire.send(
            start.replace(b"Host: x", f"Host: x\r\n{ground.bearer}".encode()), *[more] * 100, pause=pause
        )
        *_, answer = wire.read_all().split(b"HTTP/1.1 ")
    check_refusal(b"HTTP/1.1 " + answer, 431, "head-too-large")


def test_a_head_may_be_as_large_as_the_limit(service: Service, ground: Ground) -> None:
    room = LIMIT - len(get("/things/1", ground.bearer, "X: "))
    for size, status in ((room, 200), (room + 1, 431)):
        with Wire(service) as wire:
            assert status_of(wire.ask(get("/things/1", ground.bearer, "X: " + "a" * size))) == status


def test_no_limit_lets_a_head_take_the_short_cut_that_it_refuses() -> None:
    with pytest.raises(Exception, match="SVC_MAX_HEAD"):
        load({"SVC_MAX_HEAD": str(LONGEST_HEAD)})


def test_requests_before_a_head_are_no_part_of_it(service: Service, ground: Ground) -> None:
    plain = get("/things/1", ground.bearer)
    with Wire(service) as wire:
        wire.send(
            plain * 100 + plain[:30],
            plain[30:] + post("/things", 9000) + b"x" * 9000 + LAST[:20],
            LAST[20:],
            pause=0.1,
        )
        assert statuses(wire.read_all()) == [200] * 101 + [401, 200]


def test_what_does_not_come_in_time_is_refused(hasty: Service, ground: Ground) -> None:
    """On a real clock; tests/test_timeouts.py has all the ways to be slow."""
    plain = get("/things/1", ground.bearer)
    for data, codes in ((plain[:-2], [408]), (plain + START, [200, 408]), (plain, [200]), (b"", [])):
        started = time.monotonic()
        with Wire(hasty) as wire:
            wire.send(data)
            assert statuses(wire.read_all()) == codes
        assert time.monotonic() - started > 0.9 * SECONDS


def test_a_slow_handler_has_its_time(hasty: Service, ground: Ground) -> None:
    with ThreadPoolExecutor() as threads, Wire(hasty) as wire, Wire(hasty) as other:
        with ground.locked() as wait:
            wire.send(get("/things/1", ground.bearer), START)
            change = make(
                "PATCH /things/1 HTTP/1.1",
                ground.bearer,
                "Content-Type: application/json",
                "Content-Length: 2",
            )
            other.send(change + b"{}")
            wait()
            heard = [threads.submit(either.read_all) for either in (wire, other)]
            time.sleep(1.7 * SECONDS)
            assert not any(future.done() for future in heard)
        assert [statuses(future.result()) for future in heard] == [[200, 408], [200]]


MALFORMED = [
    b"what is no HTTP\r\n\r\n",
    b"\x16\x03\x01\x00\xf7\x01\x00\x00\xf3\x03\x03",  # TLS
    b"GET / HTTP/1.1\r\nX\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
    make("GET / HTTP/1.1", "Content-Length: x"),
    make("GET / HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"),
    get("//"[:0]),
    make("CONNECT example.com:443 HTTP/1.1"),
    make("POST /things HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 2") + b"{}",
    make("POST /things HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_no_http_is_a_problem_in_its_turn(service: Service, ground: Ground, data: bytes) -> None:
    change = (
        make("PATCH /things/3 HTTP/1.1", ground.bearer, "Content-Type: application/json", "Content-Length: 2")
        + b"{}"
    )
    plain = get("/things/1", ground.bearer)
    for before in ([], [plain], [change], [change, plain, plain]):
        for pieces in ([b"".join(before) + data], [*before, data]):
            with Wire(service) as wire:
                wire.send(*pieces)
                assert [status_of(wire.read()) for _ in before] == [200] * len(before)
                check_refusal(wire.read_all(), 400, "malformed")


def test_a_malformed_body_is_a_problem(service: Service, ground: Ground) -> None:
    with Wire(service) as wire:
        wire.send(get("/health/live") + chunked("/things", ground.bearer) + b"1\r\n{\r\n", b"no chunk\r\n")
        assert status_of(wire.read()) == 200
        check_refusal(wire.read_all(), 400, "malformed")


def test_an_upgrade_is_ignored_and_what_comes_behind_is_answered(service: Service, ground: Ground) -> None:
    plain = get("/things/1", ground.bearer)
    with Wire(service) as wire:
        wire.send(
            get("/things/2", ground.bearer, "Connection: Upgrade", "Upgrade: h2c") + plain, plain + LAST
        )
        assert statuses(wire.read_all()) == [200] * 4


def test_a_client_that_half_closes_hears_its_answers(service: Service, ground: Ground) -> None:
    plain = get("/things/1", ground.bearer)
    with Wire(service) as wire:
        with ground.locked() as wait:
            wire.send(plain)
            wait()
            wire.send(plain + get("/health/live"))
            wire.half_close()
        assert statuses(wire.read_all()) == [200] * 3


ENDLESS = {
    413: (post("/things", 2**40), b" "),
    431: (START + b"X: ", b"a"),
    400: (b"what is no HTTP\r\n", b"a"),
}


@pytest.mark.parametrize("status", ENDLESS)
def test_a_refusal_reaches_a_client_that_still_sends(service: Service, ground: Ground, status: int) -> None:
    start, more = ENDLESS[status]
    with Wire(service) as wire:
        wire.socket.sendall(start.replace(b"Content-Length", ground.bearer.encode() + b"\r\nContent-Length"))
        for _ in range(20):  # more than all buffers hold
            wire.socket.sendall(more * (LINGER_SIZE // 32))
        assert statuses(wire.read_all()) == [status]


@pytest.mark.parametrize("bound", ["LINGER_SIZE", "LINGER_TIMEOUT"])
def test_who_never_stops_is_cut_off(
    service: Service, ground: Ground, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(svc.http.protocol, bound, 0.1)
    with Wire(service) as wire:
        wire.send(b"what is no HTTP\r\n\r\n")
        assert statuses(wire.read_all()) == [400]
        if bound == "LINGER_SIZE":
            wire.send(b"more")
        wait_for(lambda: not service.server.server_state.connections, seconds=4)


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """An app that streams without ever waiting for anything but the client, and tells how far it got."""
    await receive()
    if scope["type"] == "lifespan":
        scope["state"].update(
            load=Load(100, 2**25),
            receive_limits=ReceiveLimits(LIMIT, 2**18, SECONDS),
            fast_path=None,
            sent=[],
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(2000):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        scope["state"]["sent"].append(1)
    await send({"type": "http.response.body"})


def test_a_slow_reader_holds_a_streaming_handler_back(
    monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    monkeypatch.setattr("tests.support.make_app", lambda *_: stream)
    with serve(config) as service, Wire(service) as wire:
        wire.send(get("/"))
        wire.read()
        (connection,) = service.server.server_state.connections
        wait_for(lambda: connection.flow.write_paused)  # type: ignore[union-attr]
        assert len(connection.app_state["sent"]) < 1000


@pytest.mark.parametrize("trouble", ["version", "class"])
def test_an_unknown_uvicorn_serves_as_it_is(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    assert find_misfit() is None
    assert find_protocol() is FastProtocol
    if trouble == "version":
        monkeypatch.setattr(uvicorn, "__version__", "0.99.0")
    else:
        monkeypatch.setattr(
            "svc.http.protocol.HttpToolsProtocol", type("Other", (), {"__init__": lambda self: None})
        )
    said = {
        "version": "uvicorn 0.99.0 was not tested",
        "class": f"uvicorn's protocol has no {', '.join(sorted(REQUIRED_ATTRIBUTES))}",
    }
    with serve(ground.config) as service, Wire(service) as wire:
        assert capsys.readouterr().err == f"Without short cuts and limits on receiving: {said[trouble]}\n"
        assert status_of(wire.ask(get("/things/1", ground.bearer))) == 200
        assert status_of(wire.ask(get("/things/99", ground.bearer))) == 404
        assert service.server.config.http == "httptools"


async def split_a_response(request: Request) -> Response:
    """What a client sent goes into a header as it is."""
    return Response(b"fine", headers={"X-Said": request.query_params["said"]})


def test_a_header_of_two_lines_never_goes_out(ground: Ground) -> None:
    split = Resource(operations=[Operation("GET", "/split", split_a_response, {200: None})])
    with serve(ground.config, lambda _: split) as service, Wire(service) as wire:
        assert b"\r\nx-said: a b\r\n" in wire.ask(get("/split?said=a%20b"))
        for end in ("%0D%0A", "%0A", "%0D"):
            answer = wire.ask(get(f"/split?said=a{end}Set-Cookie:b"))
            assert status_of(answer) == 500
            assert b"cookie" not in answer.lower()


@pytest.mark.parametrize("path", ["/things/1", "/health/live"])
def test_a_connection_that_is_gone_leaves_nothing_to_the_collector(
    service: Service, ground: Ground, path: str
) -> None:
    """What waits for the collector piles up: it comes each 20,000 objects."""
    with Wire(service) as first:
        first.ask(get("/things/1", ground.bearer))
    wait_for(lambda: not service.server.server_state.connections)
    gc.disable()
    try:
        with Wire(service) as wire:
            assert status_of(wire.ask(get(path, ground.bearer))) == 200
            (connection,) = service.server.server_state.connections
            gone = weakref.ref(connection)
            del connection
        wait_for(lambda: gone() is None)
    finally:
        gc.enable()
