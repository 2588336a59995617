"""One run of anybody who takes part: what it did, or why it does not count."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import psutil
from msgspec import structs

from bench.bulk import NotOffered, measure_bulk
from bench.ceilings import Copy, Pgbench
from bench.database import Cluster, Table
from bench.load import Canary, Sample, find_fault, run_wrk, take_sample
from bench.openloop import Job
from bench.plan import Cell
from bench.processes import end, spawn
from bench.records import NOT_OFFERED, Outcome
from bench.roster import Server
from bench.work import KINDS, WRITING, Request, Requests, WorkError

BULK = ("export", "import")
FIXED_RATE_CONNECTIONS = 64


class Contender(Protocol):
    """A peer or a ceiling."""

    name: str

    def can(self, cell: Cell) -> bool:
        """Return whether it takes part in a cell."""
        ...

    def measure(self, cell: Cell) -> Outcome:
        """Run a cell once. Raises WorkError, OSError."""
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
        """Return whether it is single requests; at a fixed rate the peer's own rate must be known."""
        works = self.server.peer.works
        if cell.work in BULK or (works and cell.work not in works):
            return False
        return cell.share is None or bool(self.rates.get(cell.rows))

    def measure(self, cell: Cell) -> Outcome:
        """Run a closed loop once, or requests at a share of the rate that the closed loops had."""
        if cell.share is not None:
            return self._at_rate(cell, cell.share)
        outcome = self._closed(cell)
        is_measure = outcome.void is None and (cell.work, cell.connections) == ("point", 64)
        if is_measure and outcome.rate is not None:
            self.rates.setdefault(cell.rows, []).append(outcome.rate)
        return outcome

    def _closed(self, cell: Cell) -> Outcome:
        work, port = cell.work, self.server.port
        if work not in self._known:
            count = max(self._samples, len(KINDS[work]))
            self._known[work] = take_sample(port, self.requests.fresh(), work, count)
        canary = Canary(port, self.requests.fresh(), work)
        with canary.running(), Cpu(self._cluster, self.server) as cpu:
            result = run_wrk(port, self.requests.fresh(), work, cell.connections, cell.seconds, self._folder)
        if work == "register":
            self.server.wait_until_idle()
        used = cpu.per(result.requests + canary.count)
        return Outcome(
            void=find_fault(result, self._known[work], canary),
            rate=result.requests / result.seconds,
            canaries=canary.count,
            cpu_service=used.service,
            cpu_postgres=used.postgres,
            memory=self.server.memory(),
            **structs.asdict(result),
        )

    def _at_rate(self, cell: Cell, share: float) -> Outcome:
        rates = sorted(self.rates[cell.rows])
        job = self._make_job(cell, share * rates[len(rates) // 2])
        psutil.cpu_percent()  # from here on
        with Cpu(self._cluster, self.server) as cpu:
            outcome = run_openloop(job)
        outcome.machine_busy = psutil.cpu_percent() / 100
        outcome.offered = job.rate
        if outcome.requests is not None:
            outcome.cpu_service, outcome.cpu_postgres = cpu.per(outcome.requests)
        return outcome

    def _make_job(self, cell: Cell, rate: float) -> Job:
        requests = self.requests.fresh()
        return Job(
            port=self.server.port,
            rate=rate,
            seconds=cell.seconds,
            connections=FIXED_RATE_CONNECTIONS,
            work=cell.work,
            token=requests.token,
            rows=requests.rows,
            tag=requests.tag,
            cursors=requests.cursors,
        )


def run_openloop(job: Job) -> Outcome:
    """Run the open loop in a process of its own. Raises WorkError."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
        given.write(msgspec.json.encode(job))
        given.seek(0)
        process = spawn([sys.executable, "-m", "bench.openloop"], output=output, stdin=given)
        try:
            code = process.wait(job.seconds + 60)
        except subprocess.TimeoutExpired:
            raise WorkError("the generator did not end") from None
        finally:
            end(process, 1)
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if code:
        raise WorkError(f"the generator failed: {said[-300:]}")
    return msgspec.json.decode(said.rpartition("\n")[2], type=Outcome)


class CpuTimes(NamedTuple):
    """CPU µs a request, of all processes of a service and of PostgreSQL."""

    service: float
    postgres: float


class Cpu:
    """CPU time of PostgreSQL and of a service during a `with` block."""

    def __init__(self, cluster: Cluster, server: Server) -> None:
        self._sources: list[Callable[[], float]] = [server.cpu, cluster.cpu]

    def __enter__(self) -> "Cpu":
        self._before = [source() for source in self._sources]
        return self

    def __exit__(self, *_: object) -> None:
        self._used = [source() - before for source, before in zip(self._sources, self._before, strict=True)]

    def per(self, requests: int) -> CpuTimes:
        """Return µs a request."""
        service, postgres = (used / max(requests, 1) * 1e6 for used in self._used)
        return CpuTimes(service, postgres)


class BulkContender:
    """A running peer, asked for an export or an import."""

    def __init__(self, server: Server, cluster: Cluster, table: Table) -> None:
        self.name = server.peer.name
        self._server, self._cluster, self._table = server, cluster, table
        self._lacks: set[str] = set()

    def can(self, cell: Cell) -> bool:
        """Return whether it is an export or an import, and the peer was not found to have none."""
        return cell.work in BULK and cell.work not in self._lacks and not self._server.peer.works

    def measure(self, cell: Cell) -> Outcome:
        """Run one export or import; requests are rows."""
        try:
            with Cpu(self._cluster, self._server) as cpu:
                rows, seconds = measure_bulk(self._server, self._table, cell.work)
        except NotOffered:
            self._lacks.add(cell.work)
            return Outcome(void=NOT_OFFERED)
        used = cpu.per(rows)
        return Outcome(
            void=None,
            requests=rows,
            seconds=seconds,
            rate=rows / seconds,
            cpu_service=used.service,
            cpu_postgres=used.postgres,
            memory=self._server.memory(),
        )


class PgbenchContender:
    """pgbench with as many clients as the cell has connections, or with its best number of them."""

    def __init__(self, pgbench: Pgbench, best: dict[str, int] | None = None) -> None:
        self.name = "pgbench" if best is None else "pgbench_best"
        self._pgbench, self._best = pgbench, best

    def can(self, cell: Cell) -> bool:
        """Return whether it is a closed loop of SQL alone; the best number of clients runs once, at 64."""
        if cell.share is not None or cell.work == "register" or not self._pgbench.can(cell.work):
            return False
        return self._best is None or (cell.connections == 64 and cell.work in self._best)

    def measure(self, cell: Cell) -> Outcome:
        """Run pgbench once."""
        clients = cell.connections if self._best is None else self._best[cell.work]
        return self._pgbench.measure(cell.work, clients, cell.seconds)


class CopyContender:
    """COPY, beside exports and imports."""

    name = "copy"

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def can(self, cell: Cell) -> bool:
        """Return whether it is an export or an import."""
        return cell.work in BULK

    def measure(self, cell: Cell) -> Outcome:
        """Run COPY once."""
        return self._copy.measure(cell.work)


class ConstantRequests(Requests):
    """Point reads of what answers the same bytes to all."""

    def __init__(self, body: bytes, token: str, rows: int, tag: int) -> None:
        super().__init__(token, rows, tag)
        self._body = body

    def fresh(self) -> "ConstantRequests":
        """Return itself: it makes no emails that could meet others."""
        return self

    def point(self) -> Request:
        """Return a `GET /users/{id}`."""
        request = super().point()
        return request._replace(check=lambda answer: None if answer.body == self._body else "other bytes")


class ConstantContender(PeerContender):
    """uvicorn alone, beside the point reads."""

    def can(self, cell: Cell) -> bool:
        """Return whether it is a closed loop of point reads."""
        return cell.share is None and cell.work == "point"


def attempt(contender: Contender, cell: Cell, table: Table) -> list[Outcome]:
    """Run a cell once, and once more if that was void; return both, of which the last one counts."""
    outcomes: list[Outcome] = []
    for _ in range(2):
        if cell.work in WRITING:
            table.reset()
        try:
            outcome = contender.measure(cell)
        except (WorkError, OSError) as error:
            outcome = Outcome(void=str(error))
        outcomes.append(outcome)
        if outcome.void in (None, NOT_OFFERED):
            break
    return outcomes
