"""The order of things: start, prove, count, measure in turns."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import structs

from bench.analysis import Results, median_of
from bench.ceilings import Copy, Pgbench
from bench.database import Cluster, Table, make_table
from bench.figures import count_files, count_trips, idle_cpu, start_times, try_collect_cursors
from bench.measure import (
    BulkContender,
    ConstantContender,
    ConstantRequests,
    Contender,
    CopyContender,
    PeerContender,
    PgbenchContender,
    attempt,
)
from bench.plan import OVERHEAD, Cell, Plan
from bench.records import Outcome, PeerRecord, Run
from bench.roster import CHEAP_HASH, CONSTANT, REAL_HASH, Missing, Peer, Server, StartError, require, start
from bench.work import KINDS, WRITING, Requests, WorkError

Check = Callable[[str, str, str], list[str]]
"""bench.contract.check: base URL, key, database URL; a line for each thing that is not as it should be."""


@dataclass
class Suite:
    """One run of the suite, which fills `results`. `advance` is told of each run and its seconds."""

    cluster: Cluster
    plan: Plan
    folder: Path
    check: Check
    say: Callable[[str], None]
    advance: Callable[[Cell, float], None]
    results: Results

    def run(self, peers: Sequence[Peer]) -> None:
        """Measure everything, one size of the table after the other."""
        self.results.peers = {peer.name: PeerRecord(peer.title, "measured") for peer in peers}
        able: list[Peer] | None = None
        for rows in dict.fromkeys(cell.rows for cell in self.plan.cells):
            self.say(f"seeding {rows:,} rows")
            table = make_table(self.cluster, rows)
            if able is None:
                able = [peer for peer in peers if self._is_here(peer) and self._prove(peer, table)]
            cells = [cell for cell in self.plan.cells if cell.rows == rows]
            cheap = [cell for cell in cells if cell.work != "register"]
            real = [cell for cell in cells if cell.work == "register"]
            for chosen, cost in ((cheap, CHEAP_HASH), (real, REAL_HASH)):
                if chosen:
                    self._measure(able, table, chosen, cost)

    def _is_here(self, peer: Peer) -> bool:
        """Return whether it can be started; build it where it must be."""
        try:
            require(peer, self.folder)
        except Missing as error:
            self._mark(peer, "not here", [str(error)])
            return False
        return True

    def _prove(self, peer: Peer, table: Table) -> bool:
        """Return whether it does the same job; count what need not be measured."""
        record = self.results.peers[peer.name]
        try:
            with start(peer, table, self.folder, REAL_HASH) as server:
                record.starts = [server.started_in]
                wrong = self.check(server.url, table.token, table.url)
            if wrong:
                self._mark(peer, "failed", wrong)
                return False
            self._count(peer, table, record)
        except StartError as error:
            self._mark(peer, "failed", [str(error)])
            return False
        finally:
            table.reset()
        return True

    def _count(self, peer: Peer, table: Table, record: PeerRecord) -> None:
        """Count starts, files and round trips. Raises StartError."""
        record.starts += start_times(peer, table, self.folder, self.plan.starts - 1)
        files = count_files(peer, self.folder)
        record.lines, record.lines_core, record.packages, record.megabytes = files
        record.trips = count_trips(peer, table, self.folder, self.plan.trips, self.plan.idle)
        trips = record.trips.point
        self.say(
            f"{peer.title}: same job, {median_of(record.starts):.2f} s to start, "
            f"{trips if trips is None else round(trips, 2)} round trips a read"
        )

    def _mark(self, peer: Peer, state: Literal["not here", "failed"], reasons: list[str]) -> None:
        record = self.results.peers[peer.name]
        record.state, record.reasons = state, reasons
        self.say(f"{peer.title}: {state}: {'; '.join(reasons)}")

    def _measure(
        self, peers: Sequence[Peer], table: Table, cells: Sequence[Cell], cost: tuple[int, int]
    ) -> None:
        """Measure some cells, with all peers up at once so that they can take turns."""
        with ExitStack() as stack:
            servers = []
            for peer in peers:
                try:
                    servers.append(stack.enter_context(start(peer, table, self.folder, cost)))
                except StartError as error:
                    self._mark(peer, "failed", [str(error)])
            self.results.idle_cpu[table.rows] = idle_cpu(self.cluster, servers)
            contenders = self._contend(servers, table, cells)
            if cost == CHEAP_HASH:
                contenders += self._ceilings(stack, table, cells)
            for cell in cells:
                self._take_turns(cell, contenders, table)

    def _contend(self, servers: Sequence[Server], table: Table, cells: Sequence[Cell]) -> list[Contender]:
        """Return the peers, each with cursors of its own where pages are wanted."""
        paging = any("page" in KINDS.get(cell.work, []) for cell in cells)
        found: list[Contender] = []
        for server in servers:
            requests = Requests(table.token, table.rows, 0)
            requests.cursors = try_collect_cursors(server, requests, self.plan.cursors) if paging else []
            found.append(PeerContender(server, self.cluster, requests, self.folder, self.plan.samples))
            found.append(BulkContender(server, self.cluster, table))
        return found

    def _ceilings(self, stack: ExitStack, table: Table, cells: Sequence[Cell]) -> list[Contender]:
        """Return pgbench, COPY and constant bytes; find pgbench's best number of clients."""
        pgbench = Pgbench(self.cluster, table, self.folder)
        best: dict[str, int] = {}
        works = dict.fromkeys(cell.work for cell in cells if cell.connections == 64)
        for work in filter(pgbench.can, works):
            try:
                best[work], rates = pgbench.best_clients(work, self.plan.clients)
            except WorkError as error:
                self.say(str(error))
                continue
            self.results.pgbench_clients[f"{work} {table.rows}"] = rates
        found: list[Contender] = [PgbenchContender(pgbench), PgbenchContender(pgbench, best)]
        found.append(CopyContender(Copy(self.cluster, table, self.folder)))
        if "point" in works:
            found.append(self._constant(stack, table))
        return found

    def _constant(self, stack: ExitStack, table: Table) -> Contender:
        """Return uvicorn alone, with a user's bytes."""
        body = table.one_user()
        server = stack.enter_context(start(CONSTANT, table, self.folder, BODY=body))
        requests = ConstantRequests(body.encode(), table.token, table.rows, 0)
        return ConstantContender(server, self.cluster, requests, self.folder, self.plan.samples)

    def _take_turns(self, cell: Cell, contenders: Sequence[Contender], table: Table) -> None:
        """Run all rounds of a cell: A B C, A B C."""
        for round_ in range(1, cell.rounds + 1):
            for contender in contenders:
                if not contender.can(cell):
                    continue
                for number, outcome in enumerate(attempt(contender, cell, table), 1):
                    self._note(cell, round_, number, contender.name, outcome)
                self.advance(cell, cell.seconds + OVERHEAD)
        if cell.work in WRITING:
            table.reset()

    def _note(self, cell: Cell, round_: int, attempt_: int, name: str, outcome: Outcome) -> None:
        run = Run(
            peer=name,
            work=cell.work,
            rows=cell.rows,
            connections=cell.connections,
            share=cell.share,
            round=round_,
            attempt=attempt_,
            ended=time.time(),
            **structs.asdict(outcome),
        )
        self.results.runs.append(run)
        self.say(f"{cell}, round {round_}, {name}: {brief(outcome)}")


def brief(outcome: Outcome) -> str:
    """Return an outcome in a few words."""
    if outcome.void:
        return f"void: {outcome.void}"
    words = f"{outcome.rate:,.0f}/s"
    if outcome.p50 is not None and outcome.p99 is not None:
        words += f", p50 {outcome.p50:.1f} ms, p99 {outcome.p99:.1f} ms"
    return words
