"""The harness of bench/: it must notice what would make its figures wrong, and leave nothing behind."""

import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import openloop, plan, wire
from bench.analysis import Results, median_ratio
from bench.figures import count_lines
from bench.load import Canary, find_fault, run_wrk, take_sample
from bench.processes import end, find_marked, spawn
from bench.report import write_report
from bench.roster import ROSTER
from bench.trips import Proxy
from bench.work import Requests, WorkError
from svc.config import DatabaseUrl
from tests.conftest import CHECKOUT

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


def drive(server: FakeServer, count: int, rate: float, connections: int = 4) -> dict[str, Any]:
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
    assert outcome["void"] is None
    assert outcome["requests"] == 200
    assert 0 < outcome["p50"] <= outcome["p90"] <= outcome["p99"] <= outcome["p99.9"]
    assert outcome["seconds"] == pytest.approx(0.2, abs=0.15)


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
    assert "without the id" in outcome["void"]
    assert "p99" not in outcome


@needs_wrk
def test_empty_answers_void_a_closed_loop(tmp_path: Path) -> None:
    """By their size alone: this canary heard nothing."""
    with serving(lambda id_, number: user(id_) if number <= 20 else b"") as server:
        sample = take_sample(server.port, requests(), "point", 20)
        result = run_wrk(server.port, requests(), "point", 4, 1, tmp_path)
    canary = Canary(server.port, requests(), "point")
    canary.count = 1
    assert result["requests"] > 100
    assert result["status"] == 0
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
    assert result["bytes"] / result["requests"] == pytest.approx(sample.mean, rel=0.02)
    for kind in ("status", "timeout", "read", "connect", "write"):
        assert str(find_fault({**result, kind: 1}, sample, canary)).startswith("1 ")


def test_a_stall_is_seen_from_the_scheduled_moment() -> None:
    """500 ms in which nothing is answered: a tenth of the requests were due in them. Only four were under way,
    so that whoever counts from the moment of sending sees nothing at the 99th percentile."""

    def stall(id_: int, number: int) -> bytes:
        if number == 300:
            time.sleep(0.5)
        return user(id_)

    with serving(stall) as server:
        outcome = drive(server, 1000, 500)
    assert outcome["void"] is None
    assert outcome["p99"] > 400
    assert outcome["from_send_p99"] < 100


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


rates = st.floats(1, 1e6)


@given(st.lists(st.tuples(rates, st.floats(0.01, 100)), min_size=1, max_size=9), st.randoms())
def test_ratios_are_taken_within_rounds(pairs: list[tuple[float, float]], chance: Any) -> None:
    """However much the machine drifts from round to round, the ratio is that of each pair; order is no matter."""
    ones = [{"round": n, "rate": drift * ratio} for n, (drift, ratio) in enumerate(pairs)]
    others = [{"round": n, "rate": drift} for n, (drift, _) in enumerate(pairs)]
    chance.shuffle(others)
    expected = median(ratio for _, ratio in pairs)
    assert median_ratio(ones, others) == pytest.approx(expected)
    assert median_ratio(ones, []) is None
    assert median_ratio([*ones, {"round": 99, "rate": 1.0}], others) == pytest.approx(expected)


def make_results() -> dict[str, Any]:
    """Two peers and a ceiling in three rounds, one run void."""
    runs = [
        {"peer": name, "work": "point", "rows": 10, "connections": 64, "share": None, "round": round_,
         "attempt": 1, "void": None, "rate": rate * round_, "p50": 1.0, "p90": 2.0, "p99": 3.0, "p99.9": 4.0,
         "cpu_service": 100.0, "cpu_postgres": 40.0, "memory": 5e7}
        for round_ in (1, 2, 3)
        for name, rate in (("bareline", 900), ("fastapi_sqlmodel", 100), ("pgbench_best", 1800))
    ]  # fmt: skip
    runs[4] |= {"void": "the canary: expected id 1, found 2"}
    found = {"starts": [0.5], "trips": {"point": 1.0}, "lines": 99, "state": "measured"}
    peers = {
        "bareline": {"title": "Bareline", **found},
        "fastapi_sqlmodel": {"title": "FastAPI + SQLModel", **found},
        "django_orm": {"title": "Django", "state": "not here", "reasons": ["no django"]},
        "go_pgx": {"title": "Go", "state": "failed", "reasons": ["lookup: expected 200, found 404"]},
    }
    environment = {"date": "today", "command": "python -m bench", "cpu": "a CPU", "cores": 2, "packages": {}}
    environment |= {"postgres": "18", "python": "3.11"}
    return {
        "runs": runs, "peers": peers, "main_rows": 10, "quick": False, "environment": environment,
        "idle_cpu": {},
    }  # fmt: skip


def test_figures_are_medians_and_void_runs_never_count() -> None:
    results = Results(make_results())
    cell = ("point", 10, 64, None)
    assert results.median("bareline", cell, "rate") == 1800
    assert results.median("fastapi_sqlmodel", cell, "rate") == 200
    assert [run["round"] for run in results.valid("fastapi_sqlmodel", cell)] == [1, 3]
    assert results.ratio("bareline", "fastapi_sqlmodel", cell) == 9
    assert results.share("bareline", cell) == 0.5
    assert results.spread("bareline", cell) == (900, 2700)


def test_the_report_names_what_was_not_measured_and_why() -> None:
    report = write_report(make_results())
    assert "| **Bareline** | 1,800 | 9.00× | 50% |" in report
    assert "- Django: not here. no django" in report
    assert "- Go: failed. lookup: expected 200, found 404" in report
    assert "round 2, attempt 1: the canary: expected id 1, found 2" in report


def test_answers_are_taken_apart() -> None:
    plain = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\n\r\nhi"
    chunks = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3;x=y\r\n yo\r\n0\r\n\r\n"
    assert wire.take(plain + b"HTTP") == (200, b"hi", len(plain))
    assert wire.take(chunks + b"HTTP") == (201, b"hi yo", len(chunks))
    for whole in (plain, chunks):
        assert all(wire.take(whole[:end]) is None for end in range(len(whole)))
    with pytest.raises(wire.WireError):
        wire.take(b"nonsense\r\n\r\n")


def test_emails_of_two_makers_never_meet() -> None:
    one, other = Requests("", 10, 0).fresh(), Requests("", 10, 0).fresh()
    emails = [
        re.findall(rb'"email":"(.*?)"', m.make("create").raw)[0] for m in (one, other) for _ in range(9)
    ]
    assert len(set(emails)) == 18


def test_lines_are_lines_of_code(tmp_path: Path) -> None:
    python = tmp_path / "a.py"
    python.write_text(
        '"""Doc.\n\nMore."""\n\n# why\nx = 1  # what\n\n\ndef f():\n    """Doc."""\n    return """a\n\nb"""\n'
    )
    assert count_lines(python) == 5
    script = tmp_path / "a.js"
    script.write_text("// why\nlet a = 1 // what\n\n/* a\n b */\nlet b = 'http://x'\n")
    assert count_lines(script) == 2


def test_each_peer_is_one_file_of_under_150_lines() -> None:
    peers = [peer for peer in ROSTER if peer.packages != ("bareline",)]
    assert len(peers) == 10
    for peer in peers:
        (path,) = (path for pattern in peer.sources for path in CHECKOUT.glob(pattern))
        assert 100 <= count_lines(path) < 150, path


def test_plans_keep_to_their_time() -> None:
    assert plan.quick().seconds(14) < 250
    assert plan.full().seconds(14) < 3600
    narrowed = plan.narrow(plan.full(), ["page"], [10_000, 20_000])
    assert {(cell.work, cell.rows) for cell in narrowed.cells} == {("page", 10_000), ("page", 20_000)}


KILLED = """
import sys, time
from bench.database import start_cluster
from bench.processes import spawn, watched_folder
with watched_folder() as folder, start_cluster(folder / "data"):
    spawn([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '1000'])"])
    time.sleep(0.3)
    print(folder, flush=True)
    time.sleep(1000)
"""


def test_a_killed_harness_leaves_nothing() -> None:
    """Neither a service with what it started, nor PostgreSQL, nor the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert process.stdout
    folder = process.stdout.readline().strip()
    assert len(find_marked(folder)) >= 3
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and (os.path.exists(folder) or find_marked(folder)):
        time.sleep(0.05)
    assert find_marked(folder) == []
    assert not os.path.exists(folder)


def test_an_ended_program_takes_its_children_with_it() -> None:
    code = "import subprocess; subprocess.run(['sleep', '987'])"
    process = spawn([sys.executable, "-c", code], {**os.environ, "BARELINE_BENCH": "here"})
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and len(find_marked("here")) < 2:
        time.sleep(0.05)
    assert len(find_marked("here")) == 2
    end(process)
    while time.monotonic() < deadline and find_marked("here"):
        time.sleep(0.01)  # what was killed takes a moment to be gone
    assert find_marked("here") == []
