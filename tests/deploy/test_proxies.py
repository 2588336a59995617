"""The service behind nginx, HAProxy and Caddy, each with its file of deploy/: what they pass on, and what not."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from select import select
from typing import Any

import httpx
import psycopg
import pytest

from svc.http.protocol import State
from tests.support import Service, problem
from tests.support.captures import Capture
from tests.support.imports import NDJSON, lines
from tests.support.locks import BACKENDS
from tests.support.proxies import (
    SHIPPED,
    UNHURRIED,
    Proxy,
    Start,
    check_both_serve,
    reserve_port,
    run_proxy,
    serve_pair,
)
from tests.support.raw import Ground, Wire, get, make, status_of
from tests.support.waiting import until, wait_for

NDJSON_LINE = "Content-Type: application/x-ndjson"

every = pytest.mark.parametrize("name", SHIPPED)


@every
def test_both_backends_serve(start: Start, ground: Ground, name: str) -> None:
    check_both_serve(start(name), ground.key)


HIDDEN = """/health/ready /health/ready?x //health/ready /health//ready /health/./ready /health/live/../ready
/users/../health/ready /users/..%2fhealth/ready /%68ealth/ready /health%2fready /health%2Fready /health/%72eady
/health/ready/ /health/ready; /health/ready%00 /health/ready%20 /health/live/../ready# /HEALTH/ready /health/
http://h/health/ready http://h/%68ealth/ready http://h//health/ready http://h/health/ready#/health/live
/health/live#/../ready /health/live%2f..%2fready /health/live;/../ready /health/live%23/../ready""".split()
"""Ways to write a path that only those may ask who reach a backend itself."""


@every
def test_of_health_only_whether_it_lives_is_told_however_a_path_is_written(
    start: Start, pair: list[Service], name: str
) -> None:
    proxy = start(name)
    with Wire(pair[0]) as wire:
        assert status_of(wire.ask(get("/health/ready"))) == 200
    for target in HIDDEN:
        with Wire(proxy) as wire:
            answer = wire.ask(f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        assert status_of(answer) in (400, 404), (target, answer)
        assert b'"ready"' not in answer, target
    with proxy.client() as client:
        assert client.get("/health/live?x").json() == {"status": "live"}
        hidden = client.get("/health/ready")
    assert hidden.headers["content-type"] == "application/problem+json"
    assert hidden.json()["status"] == 404


@pytest.fixture(scope="module")
def captures() -> Iterator[list[Capture]]:
    """Two backends that keep what comes."""
    with Capture() as one, Capture() as two:
        yield [one, two]


CLAIMS = make(
    "POST /users/1%2f2?a=%2F HTTP/1.1",
    "X-Forwarded-For: 203.0.113.9",
    "X-Request-Id: mine",
    "Authorization: Bearer x",
    "Transfer-Encoding: chunked",
)
TRAILED = b"2\r\n{}\r\n0\r\nAuthorization: Bearer trailed\r\n\r\n"


@every
def test_what_a_backend_sees(captures: list[Capture], tmp_path: Path, name: str) -> None:
    addresses = [capture.address for capture in captures]
    with run_proxy(name, tmp_path, addresses, UNHURRIED[name]) as proxy, Wire(proxy) as wire:
        assert status_of(wire.ask(CLAIMS + TRAILED)) == 200
    (came,) = [request for capture in captures for request in capture.requests]
    for capture in captures:
        capture.requests.clear()
    head, _, body = came.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    named = [(field.partition(":")[0].lower(), field.partition(":")[2].strip()) for field in fields]
    assert first == "POST /users/1%2f2?a=%2F HTTP/1.1"
    assert ("host", "x") in named
    assert ("x-request-id", "mine") in named
    assert ("authorization", "Bearer x") in named
    assert ("connection", "close") not in named
    forwarded = ", ".join(value for key, value in named if key == "x-forwarded-for").split(", ")
    assert forwarded[-1] == "127.0.0.1"
    assert forwarded[:-1] in ([], ["203.0.113.9"])
    assert (b"bearer trailed" in body.lower()) == (name == "haproxy")


@every
def test_a_key_in_trailers_lets_nobody_in(start: Start, ground: Ground, name: str) -> None:
    """HAProxy passes them on."""
    fields = ["Content-Type: application/json", "Transfer-Encoding: chunked", "Trailer: Authorization"]
    body = f"2\r\n{{}}\r\n0\r\n{ground.bearer}\r\n\r\n".encode()
    for more, status in [((), 401), ((ground.bearer,), 422)]:
        with Wire(start(name)) as wire:
            answer = wire.ask(make("POST /users HTTP/1.1", *fields, *more) + body)
        assert status_of(answer) == status, answer


@every
def test_an_answer_has_the_id_that_the_client_gave(start: Start, name: str) -> None:
    with start(name).client() as client:
        answer = client.get("/users/1", headers={"X-Request-Id": "mine"})
    assert problem(answer, 401)["request_id"] == "mine"


def test_a_body_beyond_the_limit_is_refused_by_nginx_with_a_problem(start: Start, ground: Ground) -> None:
    proxy = start("nginx")
    with proxy.client(ground.key) as client:
        for content in (b"x" * 300_000, iter([b"x" * 300_000])):
            answer = client.post("/users", content=content, headers={"Content-Type": "application/json"})
            assert problem_of(answer) == 413
    with Wire(proxy) as wire:
        answer = wire.ask(get("/users/1", *[f"X-{number}: {'x' * 4000}" for number in range(20)]))
    assert status_of(answer) == 431
    assert b"application/problem+json" in answer


def problem_of(answer: httpx.Response) -> int:
    """Return the status of a problem that a proxy made itself."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"] == "about:blank"
    assert document["status"] == answer.status_code
    return answer.status_code


FEW = {
    "nginx": (("rate=100r/s", "rate=1r/m"), ("burst=200", "burst=9")),
    "haproxy": (("http_req_rate(1s)", "http_req_rate(1h)"), ("http_req_rate(0) gt 200", "http_req_rate(0) gt 9")),
}  # fmt: skip
"""The same limits with other numbers: ten requests at once, and then hardly any."""


@pytest.mark.parametrize("name", FEW)
def test_who_asks_too_often_is_refused_and_others_are_not(
    pair: list[Service], tmp_path: Path, name: str
) -> None:
    with run_proxy(name, tmp_path, [service.address for service in pair], FEW[name]) as proxy:
        with ask_from("127.0.0.2", proxy) as client:
            answers = [client.get("/health/live") for _ in range(12)]
        assert {answer.status_code for answer in answers[:9]} == {200}
        assert problem_of(answers[-1]) == 429
        with ask_from("127.0.0.3", proxy) as other:
            assert other.get("/health/live").status_code == 200


def ask_from(address: str, proxy: Proxy) -> httpx.Client:
    """Return a client that has this address."""
    return httpx.Client(
        base_url=proxy.url, transport=httpx.HTTPTransport(local_address=address, verify=False)
    )


ONE = {
    "nginx": (("bareline_connections 100", "bareline_connections 1"),),
    "haproxy": (("sc_conn_cur(0) gt 100", "sc_conn_cur(0) gt 1"),),
}


@pytest.mark.parametrize("name", ONE)
def test_who_opens_too_many_connections_is_refused_and_others_are_not(
    pair: list[Service], tmp_path: Path, name: str
) -> None:
    changes, addresses = (*UNHURRIED[name], *ONE[name]), [service.address for service in pair]
    with run_proxy(name, tmp_path, addresses, changes) as proxy, ask_from("127.0.0.2", proxy) as other:

        def is_second_refused() -> bool:
            with suppress(OSError), Wire(proxy, source="127.0.0.3") as first:
                if status_of(first.ask(get("/health/live"))) == 200:
                    first.send(make("POST /users HTTP/1.1", "Content-Length: 9") + b"x")
                    return is_refused(proxy, "127.0.0.3") and other.get("/health/live").status_code == 200
            return False  # those of the last look are still counted

        wait_for(is_second_refused)


def is_refused(proxy: Proxy, source: str) -> bool:
    """Return whether one more connection from an address gets no good answer."""
    with suppress(OSError), Wire(proxy, source=source) as wire:
        return status_of(wire.ask(get("/health/live"))) in (0, 429)
    return True


class Hold:
    """Holds exports behind their first block until they may end, break off, or go on for ever."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.breaks = self.goes_on = False

    async def read(self, read_users: Any, queries: Any) -> AsyncIterator[bytes]:
        """Yield what there is, one block before and the others after."""
        async for part in read_users(queries):
            yield part
            await until(self.ended.is_set)
            while self.goes_on:
                yield part
                await asyncio.sleep(0.01)
            if self.breaks:
                raise OSError("the database is gone")


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Exports have blocks of four users, and are held."""
    exporter = pytest.importorskip("svc.users.exporter")
    hold = Hold()
    monkeypatch.setattr(exporter, "BLOCK", 4)
    monkeypatch.setattr(exporter, "read_users", partial(hold.read, exporter.read_users))
    return hold


@every
def test_an_export_goes_out_as_it_is_made(start: Start, ground: Ground, hold: Hold, name: str) -> None:
    with start(name).client(ground.key) as client, client.stream("GET", "/users/export") as answer:
        parts = answer.iter_bytes()
        came = next(parts)
        assert json.loads(came.split(b"\n")[0])["id"] == 1
        hold.ended.set()
        came += b"".join(parts)
    assert json.loads(came.splitlines()[-1])["id"] == int(answer.headers["x-last-id"])


@every
def test_an_export_that_breaks_off_is_seen_to(start: Start, ground: Ground, hold: Hold, name: str) -> None:
    """Caddy 2.6 ends it as if it were whole; the id of the last user tells."""
    hold.breaks = True
    with start(name).client(ground.key) as client, client.stream("GET", "/users/export") as answer:
        parts = answer.iter_bytes()
        came = next(parts)
        hold.ended.set()
        with (
            pytest.raises(httpx.RemoteProtocolError)
            if name != "caddy"
            else suppress(httpx.RemoteProtocolError)
        ):
            came += b"".join(parts)
    assert json.loads(came.splitlines()[-1])["id"] < int(answer.headers["x-last-id"])


@every
def test_a_client_that_leaves_ends_its_export(start: Start, ground: Ground, hold: Hold, name: str) -> None:
    with start(name).client(ground.key) as client, client.stream("GET", "/users/export") as answer:
        next(answer.iter_bytes())
        assert find_transactions(ground)
        hold.goes_on = True
        hold.ended.set()
    wait_for(lambda: not find_transactions(ground))


def find_transactions(ground: Ground) -> list[Any]:
    """Return the connections to the database that have a transaction open."""
    with psycopg.connect(ground.url) as connection:
        return connection.execute(f"select pid {BACKENDS} and xact_start is not null".encode()).fetchall()


def count_connections(pair: list[Service], state: State) -> int:
    """Return how many connections of both backends are in a state."""
    connections = [each for service in pair for each in [*service.server.server_state.connections]]
    return sum(getattr(connection, "_state", None) is state for connection in connections)


@every
def test_an_import_is_taken_in_that_is_larger_than_a_body(start: Start, ground: Ground, name: str) -> None:
    pytest.importorskip("svc.users.importer")
    body = lines(3000, name)
    assert len(body) > 300_000
    with start(name).client(ground.key) as client:
        for content, created in ((body, 3000), (iter([body[:500_000], body[500_000:]]), 0)):
            answer = client.post("/users/import", content=content, headers=NDJSON)
            assert answer.json()["created"] == created, answer.text
            assert answer.json()["skipped"] == 3000 - created


@every
def test_an_import_is_refused_while_it_still_comes(start: Start, name: str) -> None:
    """Caddy hands the answer on between two reads of the body, so a client that stalls waits for it."""
    pytest.importorskip("svc.users.importer")
    head = make("POST /users/import HTTP/1.1", NDJSON_LINE, "Content-Length: 1000000000")
    with Wire(start(name)) as wire:
        wire.send(head)
        wait_for(lambda: wire.send(b"x" * 1000) or select([wire.socket], [], [], 0)[0])
        answer = wire.read()
    assert status_of(answer) == 401
    assert b"application/problem+json" in answer


@every
def test_an_import_that_is_cut_creates_nobody(
    start: Start, pair: list[Service], ground: Ground, name: str
) -> None:
    pytest.importorskip("svc.users.importer")
    body, paths = lines(10, f"cut-{name}"), ["/users/import", NDJSON_LINE]
    head = make(f"POST {paths[0]} HTTP/1.1", ground.bearer, paths[1], f"Content-Length: {len(body) + 9}")
    with Wire(start(name)) as wire:
        wire.send(head + body)
        wait_for(lambda: count_connections(pair, State.BODY))
    wait_for(lambda: not any(service.server.server_state.tasks for service in pair))
    with start(name).client(ground.key) as client:
        answer = client.post("/users/lookup", json={"emails": [f"cut-{name}0@example.com"]})
    assert answer.json()["users"] == [None]


@every
def test_a_body_that_stalls_is_refused_in_time(
    ground: Ground, tmp_path: Path, pytestconfig: pytest.Config, name: str
) -> None:
    """By the service where a proxy passes on what comes; Caddy tells it when the body comes after all."""
    if not pytestconfig.getoption("--full"):
        pytest.skip("waits for seconds: --full")
    pytest.importorskip("svc.users.importer")
    head = make(
        "POST /users/import HTTP/1.1",
        ground.bearer,
        NDJSON_LINE,
        "Content-Length: 9",
    )
    with ExitStack() as stack:
        services = stack.enter_context(serve_pair(ground, request_timeout=1.0))
        addresses = [service.address for service in services]
        proxy = stack.enter_context(run_proxy(name, tmp_path, addresses, UNHURRIED[name]))
        for _ in range(3):
            with Wire(proxy) as wire:
                wire.send(head + b"1")
                wait_for(lambda: count_connections(services, State.BODY))
                wait_for(lambda: not count_connections(services, State.BODY))
                wire.send(b"2345678\n" if name == "caddy" else b"")
                answer = wire.read()
            assert status_of(answer) == 408, name
            assert b"urn:bareline:problem:too-slow" in answer
        check_both_serve(proxy, ground.key)


@every
def test_no_request_meets_the_end_of_an_idle_connection(
    ground: Ground, tmp_path: Path, pytestconfig: pytest.Config, name: str
) -> None:
    """In little: the proxy keeps connections for less long than the service, and requests come around both times."""
    if not pytestconfig.getoption("--full"):
        pytest.skip("idles for seconds: --full")
    wrong: list[object] = []
    with ExitStack() as stack:
        addresses = [service.address for service in stack.enter_context(serve_pair(ground, keep_alive=1))]
        changes = (*UNHURRIED[name], *IDLE[name])
        proxy = stack.enter_context(run_proxy(name, tmp_path, addresses, changes))
        threads = [threading.Thread(target=idle, args=(proxy, ground.key, n, wrong)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


IDLE = {
    "nginx": (("keepalive_timeout 60s", "keepalive_timeout 500ms"),),
    "haproxy": (("http-keep-alive 60s", "http-keep-alive 500ms"), ("purge-delay 5s", "purge-delay 40ms")),
    "caddy": (("keepalive 60s", "keepalive 500ms"),),
}


PAUSES = (0.48, 0.49, 0.5, 0.51, 0.52, 0.98, 0.99, 1.0, 1.01, 1.02)


def idle(proxy: Proxy, key: str, number: int, wrong: list[object]) -> None:
    """Read and change again and again, each time on a new connection after a pause; note what went wrong."""
    for pause in PAUSES:
        time.sleep(pause + number / 10_000)
        try:
            with proxy.client(key) as client:
                answers = [client.get("/users/1"), client.post("/users", json={})]
            wrong += [answer for answer in answers if answer.status_code not in (200, 422)]
        except httpx.TransportError as error:
            wrong.append(error)


@every
def test_a_dead_backend_is_not_noticed(
    pair: list[Service], ground: Ground, tmp_path: Path, name: str
) -> None:
    """Caddy 2.6 sends what has a body to no other one, until it has seen that one is not ready."""
    with reserve_port() as dead, ExitStack() as stack:
        addresses = [pair[0].address, ("127.0.0.1", dead)]
        proxy = stack.enter_context(run_proxy(name, tmp_path, addresses, UNHURRIED[name]))
        with proxy.client(ground.key) as client:

            def change() -> set[int]:
                return {client.post("/users", json={}).status_code for _ in range(20)}

            assert {client.get("/users/1").status_code for _ in range(20)} == {200}
            wait_for(lambda: name != "caddy" or change() == {422})
            assert change() == {422}
