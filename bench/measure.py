"""One run of anybody who takes part: what it did, or why it does not count."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil

from bench.bulk import NotOffered, measure_bulk
from bench.ceilings import Copy, Pgbench
from bench.database import Cluster, Table
from bench.load import Canary, Sample, find_fault, run_wrk, take_sample
from bench.plan import Cell
from bench.processes import end, spawn
from bench.roster import Server
from bench.work import KINDS, WRITING, Request, Requests, WorkError

Run = dict[str, Any]
"""A run's figures as they are in raw.json; `void` is the reason why they do not count, or None."""

BULK = ("export", "import")
FIXED_RATE_CONNECTIONS = 64


class Contender(Protocol):
    """A peer or a ceiling."""

    name: str

    def can(self, cell: Cell) -> bool:
        """Whether it takes part in a cell."""
        ...

    def measure(self, cell: Cell) -> Run:
        """One run. Raises WorkError, NotOffered, OSError."""
        ...


class PeerContender:
    """A running peer: under wrk, at a fixed rate, or in bulk."""

    def __init__(
        self, server: Server, cluster: Cluster, requests: Requests, folder: Path, samples: int
    ) -> None:
        self.name = server.peer.name
        self.server, self.requests = server, requests
        self.rates: dict[int, list[float]] = {}
        self._cluster, self._folder, self._samples = cluster, folder, samples
        self._known: dict[str, Sample] = {}

    def can(self, cell: Cell) -> bool:
        """Requests; at a fixed rate only where the peer's own rate is known."""
        works = self.server.peer.works
        if cell.work in BULK or (works and cell.work not in works):
            return False
        return cell.share is None or bool(self.rates.get(cell.rows))

    def measure(self, cell: Cell) -> Run:
        """One closed-loop run, or one at a share of the rate that those had."""
        if cell.share is not None:
            return self._at_rate(cell)
        result = self._closed(cell)
        if result["void"] is None and (cell.work, cell.connections) == ("point", 64):
            self.rates.setdefault(cell.rows, []).append(result["rate"])
        return result

    def _closed(self, cell: Cell) -> Run:
        work = cell.work
        if work not in self._known:
            self._known[work] = take_sample(
                self.server.port, self.requests.fresh(), work, max(self._samples, len(KINDS[work]))
            )
        canary = Canary(self.server.port, self.requests.fresh(), work)
        with canary.running(), Cpu(self._cluster, self.server) as cpu:
            result = run_wrk(
                self.server.port, self.requests.fresh(), work, cell.connections, cell.seconds, self._folder
            )
        if work == "register":
            self.server.rest()
        result["void"] = find_fault(result, self._known[work], canary)
        result["rate"] = result["requests"] / result["seconds"]
        result["canaries"] = canary.count
        return result | cpu.per(result["requests"] + canary.count) | {"memory": self.server.memory()}

    def _at_rate(self, cell: Cell) -> Run:
        assert cell.share is not None
        rates = sorted(self.rates[cell.rows])
        offered = cell.share * rates[len(rates) // 2]
        requests = self.requests.fresh()
        job = {
            "port": self.server.port,
            "rate": offered,
            "seconds": cell.seconds,
            "connections": FIXED_RATE_CONNECTIONS,
            "work": cell.work,
            "token": requests.token,
            "rows": requests.rows,
            "tag": requests.tag,
            "cursors": requests.cursors,
        }
        psutil.cpu_percent()  # from here on
        with Cpu(self._cluster, self.server) as cpu:
            result = run_openloop(job, cell.seconds + 60)
        busy = psutil.cpu_percent() / 100
        if result["void"] is None:
            result |= cpu.per(result["requests"]) | {"rate": result["requests"] / result["seconds"]}
        return result | {"offered": offered, "machine_busy": busy}


def run_openloop(job: dict[str, Any], seconds: float) -> Run:
    """The open loop in a process of its own. Raises WorkError."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
        given.write(json.dumps(job).encode())
        given.seek(0)
        process = spawn([sys.executable, "-m", "bench.openloop"], output=output, stdin=given)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise WorkError("the generator did not end") from None
        finally:
            end(process, 1)
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if code:
        raise WorkError(f"the generator failed: {said[-300:]}")
    return dict(json.loads(said.rpartition("\n")[2]))


class Cpu:
    """CPU time of PostgreSQL and of a service during a `with` block."""

    def __init__(self, cluster: Cluster, server: Server) -> None:
        self._sources: list[Callable[[], float]] = [server.cpu, cluster.cpu]

    def __enter__(self) -> "Cpu":
        self._before = [source() for source in self._sources]
        return self

    def __exit__(self, *_: object) -> None:
        self._used = [source() - before for source, before in zip(self._sources, self._before, strict=True)]

    def per(self, requests: int) -> Run:
        """µs a request."""
        service, postgres = (used / max(requests, 1) * 1e6 for used in self._used)
        return {"cpu_service": service, "cpu_postgres": postgres}


class BulkContender:
    """A running peer, asked for an export or an import."""

    def __init__(self, server: Server, cluster: Cluster, table: Table) -> None:
        self.name = server.peer.name
        self._server, self._cluster, self._table = server, cluster, table
        self._lacks: set[str] = set()

    def can(self, cell: Cell) -> bool:
        """Exports and imports, unless it was found to have none."""
        return cell.work in BULK and cell.work not in self._lacks and not self._server.peer.works

    def measure(self, cell: Cell) -> Run:
        """One export or import."""
        try:
            with Cpu(self._cluster, self._server) as cpu:
                result = measure_bulk(self._server, self._table, cell.work)
        except NotOffered:
            self._lacks.add(cell.work)
            return {"void": "not offered"}
        return {"void": None, **result, **cpu.per(result["requests"]), "memory": self._server.memory()}


class PgbenchContender:
    """pgbench with as many clients as the cell has connections, or with its best number of them."""

    def __init__(self, pgbench: Pgbench, best: dict[str, int] | None = None) -> None:
        self.name = "pgbench" if best is None else "pgbench_best"
        self._pgbench, self._best = pgbench, best

    def can(self, cell: Cell) -> bool:
        """Closed loops of what is SQL alone; the best number of clients only once, at 64 connections."""
        if cell.share is not None or cell.work == "register" or not self._pgbench.can(cell.work):
            return False
        return self._best is None or (cell.connections == 64 and cell.work in self._best)

    def measure(self, cell: Cell) -> Run:
        """One run of pgbench."""
        clients = cell.connections if self._best is None else self._best[cell.work]
        return {"void": None, "clients": clients, **self._pgbench.measure(cell.work, clients, cell.seconds)}


class CopyContender:
    """COPY, beside exports and imports."""

    name = "copy"

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def can(self, cell: Cell) -> bool:
        """Exports and imports."""
        return cell.work in BULK

    def measure(self, cell: Cell) -> Run:
        """One COPY."""
        return {"void": None, **self._copy.measure(cell.work)}


class ConstantRequests(Requests):
    """Point reads of what answers the same bytes to all."""

    def __init__(self, body: bytes, token: str, rows: int, tag: int) -> None:
        super().__init__(token, rows, tag)
        self._body = body

    def fresh(self) -> "ConstantRequests":
        """The emails of others are of no matter here."""
        return self

    def point(self) -> Request:
        """`GET /users/{id}`"""
        request = super().point()
        return request._replace(check=lambda answer: None if answer.body == self._body else "other bytes")


class ConstantContender(PeerContender):
    """uvicorn alone, beside the point reads."""

    def can(self, cell: Cell) -> bool:
        """Closed-loop point reads."""
        return cell.share is None and cell.work == "point"


def attempt(contender: Contender, cell: Cell, table: Table) -> list[Run]:
    """One run, and once more where it was void: the last one counts."""
    runs: list[Run] = []
    for number in (1, 2):
        if cell.work in WRITING:
            table.settle()
        try:
            run = contender.measure(cell)
        except (WorkError, OSError) as error:
            run = {"void": str(error)}
        runs.append({"attempt": number, **run})
        if run["void"] is None or run["void"] == "not offered":
            break
    return runs
