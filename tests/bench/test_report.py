"""What bench/ makes of its runs, and what it leaves behind: reports, plans, no process."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import plan, wire
from bench.analysis import Results, median_ratio, read_results, write_results
from bench.figures import count_lines
from bench.processes import end, find_marked, spawn
from bench.records import CellKey, Environment, Figure, Outcome, PeerRecord, Run, Trips
from bench.report import write_report
from bench.roster import ROSTER, Server
from bench.work import Requests
from tests.support import CHECKOUT
from tests.support.waiting import DEADLINE

rates = st.floats(1, 1e6)


@given(st.lists(st.tuples(rates, st.floats(0.01, 100)), min_size=1, max_size=9), st.randoms())
def test_ratios_are_taken_within_rounds(pairs: list[tuple[float, float]], chance: Any) -> None:
    """However much the machine drifts from round to round, the ratio is that of each pair; order is no matter."""
    ones = {n: drift * ratio for n, (drift, ratio) in enumerate(pairs)}
    others = [(n, drift) for n, (drift, _) in enumerate(pairs)]
    chance.shuffle(others)
    expected = median(ratio for _, ratio in pairs)
    assert median_ratio(ones, dict(others)) == pytest.approx(expected)
    assert median_ratio(ones, {}) is None
    assert median_ratio({**ones, 99: 1.0}, dict(others)) == pytest.approx(expected)


CELL = CellKey("point", 10, 64)
PLACE = Environment(
    date="today", command="python -m bench", cpu="a CPU", cores=2, memory_gb=1.0, kernel="6", python="3.11",
    postgres="18", wrk="", node="", go="", commit="", packages={},
)  # fmt: skip


def make_run(peer: str, round_: int, rate: float, void: str | None = None) -> Run:
    """A closed-loop run of point reads."""
    return Run(
        peer=peer, work="point", rows=10, connections=64, share=None, round=round_, attempt=1, ended=0.0,
        void=void, rate=rate, p50=1.0, p90=2.0, p99=3.0, p99_9=4.0, cpu_service=100.0, cpu_postgres=40.0,
        memory=50_000_000,
    )  # fmt: skip


def make_results() -> Results:
    """Two peers and a ceiling in three rounds, one run void."""
    rates = {"bareline": 900, "fastapi_sqlmodel": 100, "pgbench_best": 1800}
    runs = [make_run(name, round_, rate * round_) for round_ in (1, 2, 3) for name, rate in rates.items()]
    runs[4].void = "the canary: expected id 1, found 2"
    peers = {
        "bareline": PeerRecord("Bareline", "measured", starts=[0.5], lines=99, trips=Trips(point=1.0)),
        "fastapi_sqlmodel": PeerRecord("FastAPI + SQLModel", "measured", starts=[0.5], trips=Trips()),
        "django_orm": PeerRecord("Django", "not here", ["no django"]),
        "go_pgx": PeerRecord("Go", "failed", ["lookup: expected 200, found 404"]),
    }
    return Results(environment=PLACE, quick=False, main_rows=10, peers=peers, runs=runs)


def test_figures_are_medians_and_void_runs_never_count() -> None:
    results = make_results()
    assert results.cells() == [CELL]
    assert results.median("bareline", CELL, "rate") == 1800
    assert results.median("fastapi_sqlmodel", CELL, "rate") == 200
    assert [run.round for run in results.valid("fastapi_sqlmodel", CELL)] == [1, 3]
    assert results.ratio("bareline", "fastapi_sqlmodel", CELL) == 9
    assert results.share("bareline", CELL) == 0.5
    assert results.spread("bareline", CELL) == (900, 2700)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    results = make_results()
    results.idle_cpu, results.pgbench_clients = {10: {"bareline": 0.01}}, {"point 10": {4: 1.5}}
    write_results(results, tmp_path / "raw.json")
    assert read_results(tmp_path / "raw.json") == results


def test_a_figure_that_is_shown_is_a_field_of_an_outcome() -> None:
    assert set(get_args(Figure)) < set(Outcome.__struct_fields__)


def test_the_report_names_what_was_not_measured_and_why() -> None:
    report = write_report(make_results())
    assert "| **Bareline** | 1,800 | 9.00× | 50% |" in report
    assert "- Django: not here. no django" in report
    assert "- Go: failed. lookup: expected 200, found 404" in report
    assert "round 2, attempt 1: the canary: expected id 1, found 2" in report


def test_answers_are_taken_apart() -> None:
    plain = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\n\r\nhi"
    chunks = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3;x=y\r\n yo\r\n0\r\n\r\n"
    assert wire.parse_answer(plain + b"HTTP") == (200, b"hi", len(plain))
    assert wire.parse_answer(chunks + b"HTTP") == (201, b"hi yo", len(chunks))
    for whole in (plain, chunks):
        assert all(wire.parse_answer(whole[:end]) is None for end in range(len(whole)))
    with pytest.raises(wire.WireError):
        wire.parse_answer(b"nonsense\r\n\r\n")


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
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and (os.path.exists(folder) or find_marked(folder)):
        time.sleep(0.05)
    assert find_marked(folder) == []
    assert not os.path.exists(folder)


def test_a_server_is_waited_for_until_it_rests() -> None:
    code = "import time; print(flush=True)\nwhile time.process_time() < 1: pass\ntime.sleep(1000)"
    process = spawn([sys.executable, "-c", code], output=subprocess.PIPE)
    assert process.stdout
    try:
        server = Server(ROSTER[0], process, 0, 0.0)
        process.stdout.readline()
        server.wait_until_idle(DEADLINE)
        assert server.cpu() >= 0.99
    finally:
        end(process)
        process.stdout.close()


def test_an_ended_program_takes_its_children_with_it() -> None:
    code = "import subprocess; subprocess.run(['sleep', '987'])"
    process = spawn([sys.executable, "-c", code], {**os.environ, "BARELINE_BENCH": "here"})
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and len(find_marked("here")) < 2:
        time.sleep(0.05)
    assert len(find_marked("here")) == 2
    end(process)
    while time.monotonic() < deadline and find_marked("here"):
        time.sleep(0.01)  # what was killed takes a moment to be gone
    assert find_marked("here") == []
