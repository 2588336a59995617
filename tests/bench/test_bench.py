"""The harness of bench/: it must notice what would make its figures wrong, and leave nothing behind."""

import json
import re
import shutil
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec import structs

from bench import openloop
from bench.load import Canary, find_fault, run_wrk, take_sample
from bench.records import Outcome
from bench.trips import Proxy
from bench.work import Requests, WorkError
from svc.database_url import DatabaseUrl
from tests.support.waiting import DEADLINE

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="there is no wrk here")

Body = Callable[[int, int], bytes]
"""The body for a user's id, in the n-th answer of the server."""


def user(id_: int, number: int = 0) -> bytes:
    """What a right server answers."""
    content = {"id": id_, "email": f"{id_:08}@example.com", "display_name": None, "is_active": True}
    return json.dumps({**content, "created_at": "2026-01-01T00:00:00Z"}).encode()


class Handler(socketserver.StreamRequestHandler):
    """Keep-alive HTTP: each request is one user's read."""

    server: "FakeServer"

    def handle(self) -> None:
        while match := re.match(rb"GET /users/(\d+)", self.rfile.readline()):
            while self.rfile.readline().strip():
                pass
            body = self.server.answer(int(match[1]))
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.wfile.write(head + body)


class FakeServer(socketserver.ThreadingTCPServer):
    """A server that answers 200 to all, with a body of the test's making, one answer at a time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, body: Body) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.count, self.lock = body, 0, threading.Lock()
        self.port: int = self.server_address[1]

    def answer(self, id_: int) -> bytes:
        with self.lock:
            self.count += 1
            return self.body(id_, self.count)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no fault."""


@contextmanager
def serving(body: Body) -> Iterator[FakeServer]:
    """The server, on a real socket."""
    with FakeServer(body) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def requests() -> Requests:
    return Requests("bl_token", 1000, 1)


def drive(server: FakeServer, count: int, rate: float, connections: int = 4) -> Outcome:
    """An open-loop run of point reads."""
    made = requests()
    return openloop.drive(server.port, [made.make("point") for _ in range(count)], rate, connections)


def heard(server: FakeServer, seconds: float = 0.3) -> Canary:
    """A canary that has sung for a while."""
    canary = Canary(server.port, requests(), "point")
    with canary.running():
        time.sleep(seconds)
    return canary


def test_a_right_server_is_measured() -> None:
    with serving(user) as server:
        assert take_sample(server.port, requests(), "point", 20).count == 20
        assert heard(server).wrong is None
        outcome = drive(server, 200, 1000)
    assert outcome.void is None
    assert outcome.requests == 200
    latencies = [outcome.p50, outcome.p90, outcome.p99, outcome.p99_9]
    assert latencies == sorted(each for each in latencies if each)
    assert 0.19 < outcome.seconds < DEADLINE  # 200 requests at 1,000 a second


@pytest.mark.parametrize(
    "body",
    [
        lambda id_, number: b"",
        lambda id_, number: b"{}",
        lambda id_, number: user(id_ + 1),
        lambda id_, number: user(id_ * 10),
        lambda id_, number: user(id_).replace(b"{", b'{"hashed_password": "x", '),
    ],
    ids=["empty", "no user", "the next user", "an id that begins alike", "a secret"],
)
def test_a_wrong_body_is_no_sample_and_is_heard(body: Body) -> None:
    with serving(body) as server:
        with pytest.raises(WorkError):
            take_sample(server.port, requests(), "point", 5)
        assert heard(server).wrong


@pytest.mark.parametrize(
    "body",
    [
        lambda id_, number: b"" if number == 100 else user(id_),
        lambda id_, number: user(id_ + 1) if number == 100 else user(id_),
        lambda id_, number: user(id_ * 10) if number == 100 else user(id_),
    ],
    ids=["empty", "the next user", "an id that begins alike"],
)
def test_one_wrong_answer_voids_an_open_loop(body: Body) -> None:
    with serving(body) as server:
        outcome = drive(server, 200, 1000)
    assert "without the id" in str(outcome.void)
    assert outcome.p99 is None


@needs_wrk
def test_empty_answers_void_a_closed_loop(tmp_path: Path) -> None:
    """By their size alone: this canary heard nothing."""
    with serving(lambda id_, number: user(id_) if number <= 20 else b"") as server:
        sample = take_sample(server.port, requests(), "point", 20)
        result = run_wrk(server.port, requests(), "point", 4, 1, tmp_path)
    canary = Canary(server.port, requests(), "point")
    canary.count = 1
    assert result.requests > 100
    assert result.status == 0
    assert "bytes an answer" in str(find_fault(result, sample, canary))


@needs_wrk
def test_wrong_answers_of_the_right_size_void_a_closed_loop(tmp_path: Path) -> None:
    """By the canary: the size is as it should be."""
    with serving(lambda id_, number: user(id_) if number <= 20 else user(1001 - id_)) as server:
        sample = take_sample(server.port, requests(), "point", 20)
        canary = Canary(server.port, requests(), "point")
        with canary.running():
            result = run_wrk(server.port, requests(), "point", 4, 1, tmp_path)
    assert "expected id" in str(find_fault(result, sample, canary))
    canary.wrong = None
    assert find_fault(result, sample, canary) is None


@needs_wrk
def test_a_right_server_is_measured_in_a_closed_loop(tmp_path: Path) -> None:
    with serving(user) as server:
        sample = take_sample(server.port, requests(), "point", 20)
        canary = Canary(server.port, requests(), "point")
        with canary.running():
            result = run_wrk(server.port, requests(), "point", 4, 1, tmp_path)
    assert find_fault(result, sample, canary) is None
    assert result.bytes / result.requests == pytest.approx(sample.mean, rel=0.02)
    for kind in ("status", "timeout", "read", "connect", "write"):
        assert str(find_fault(structs.replace(result, **{kind: 1}), sample, canary)).startswith("1 ")


def test_a_stall_is_seen_from_the_scheduled_moment() -> None:
    """500 ms in which nothing is answered: a tenth of the requests were due in them. Only four were under way,
    so that whoever counts from the moment of sending sees nothing at the 99th percentile."""

    def stall(id_: int, number: int) -> bytes:
        if number == 300:
            time.sleep(0.5)
        return user(id_)

    with serving(stall) as server:
        outcome = drive(server, 1000, 500)
    assert outcome.void is None
    assert outcome.p99
    assert outcome.p99 > 400
    assert outcome.from_send_p99
    assert outcome.from_send_p99 < outcome.p99 / 2


def test_the_proxy_counts_round_trips(database_url: DatabaseUrl, tmp_path: Path) -> None:
    target = str(psycopg.conninfo.conninfo_to_dict(database_url).get("host"))
    if not target.startswith("/"):
        pytest.skip("the proxy is for Unix sockets")
    with Proxy(tmp_path, target) as proxy:
        url = proxy.url(database_url)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            before = proxy.count
            for number in range(7):
                assert connection.execute("select %s::int", [number]).fetchone() == (number,)
            assert proxy.count - before == 7
            with connection.transaction():
                connection.execute("select 1")
            assert proxy.count - before == 10
            with connection.pipeline():
                for number in range(5):
                    connection.execute("select %s::int", [number])
            assert 10 < proxy.count - before < 15, "what is pipelined is not counted one by one"
        before = proxy.count
        time.sleep(0.1)
        assert proxy.count == before
    assert not any(tmp_path.iterdir())


def test_a_request_in_parts_is_one_round_trip(tmp_path: Path) -> None:
    """And the server's answer in parts, too."""

    class Server(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(1) == b"a":
                assert self.request.recv(1) == b"b"
                self.request.sendall(b"c")
                time.sleep(0.05)
                self.request.sendall(b"d")

    (tmp_path / "here").mkdir()
    with socketserver.UnixStreamServer(str(tmp_path / ".s.PGSQL.5432"), Server) as server:
        threading.Thread(target=server.handle_request).start()
        with Proxy(tmp_path / "here", str(tmp_path)) as proxy, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "here" / ".s.PGSQL.5432"))
            for number in (1, 2, 3):
                client.sendall(b"a")
                time.sleep(0.05)
                client.sendall(b"b")
                assert client.recv(1) + client.recv(1) == b"cd"
                assert proxy.count == number
