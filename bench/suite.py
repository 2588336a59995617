"""The order of things: start, prove, count, measure in turns."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.ceilings import Copy, Pgbench
from bench.database import Cluster, Table, make_table
from bench.figures import count_trips, describe, idle_cpu, start_times, try_harvest
from bench.measure import (
    BulkContender,
    ConstantContender,
    ConstantRequests,
    Contender,
    CopyContender,
    PeerContender,
    PgbenchContender,
    Run,
    attempt,
)
from bench.plan import OVERHEAD, Cell, Plan
from bench.roster import CHEAP_HASH, CONSTANT, REAL_HASH, Missing, Peer, Server, StartError, require, start
from bench.work import KINDS, WRITING, Requests, WorkError

Check = Callable[[str, str, str], list[str]]
"""bench.contract.check: base URL, key, database URL; a line for each thing that is not as it should be."""


@dataclass
class Suite:
    """One run of the suite. `results` is what raw.json will hold; `advance` hears of each run."""

    cluster: Cluster
    plan: Plan
    folder: Path
    check: Check
    say: Callable[[str], None]
    advance: Callable[[Cell, float], None]
    results: dict[str, Any] = field(default_factory=dict)

    def run(self, peers: Sequence[Peer]) -> None:
        """Everything, one size of the table after the other."""
        self.results["peers"] = {peer.name: {"title": peer.title, "state": "measured"} for peer in peers}
        self.results |= {"runs": [], "pgbench_clients": {}, "idle_cpu": {}}
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
        """Whether it can be started; builds it where it must be."""
        try:
            require(peer, self.folder)
        except Missing as error:
            self._mark(peer, "not here", [str(error)])
            return False
        return True

    def _prove(self, peer: Peer, table: Table) -> bool:
        """Whether it does the same job; counts what need not be measured."""
        found = self.results["peers"][peer.name]
        try:
            with start(peer, table, self.folder, REAL_HASH) as server:
                found["starts"] = [server.started_in]
                wrong = self.check(server.url, table.token, table.url)
            if wrong:
                self._mark(peer, "failed", wrong)
                return False
            found["starts"] += start_times(peer, table, self.folder, self.plan.starts - 1)
            found |= describe(peer, self.folder)
            found["trips"] = count_trips(peer, table, self.folder, self.plan.trips, self.plan.idle)
        except StartError as error:
            self._mark(peer, "failed", [str(error)])
            return False
        finally:
            table.settle()
        trips = found["trips"]["point"]
        self.say(
            f"{peer.title}: same job, {median(found['starts']):.2f} s to start, "
            f"{trips if trips is None else round(trips, 2)} round trips a read"
        )
        return True

    def _mark(self, peer: Peer, state: str, reasons: list[str]) -> None:
        self.results["peers"][peer.name] |= {"state": state, "reasons": reasons}
        self.say(f"{peer.title}: {state}: {'; '.join(reasons)}")

    def _measure(
        self, peers: Sequence[Peer], table: Table, cells: Sequence[Cell], cost: tuple[int, int]
    ) -> None:
        """Some cells, with all peers up at once so that they can take turns."""
        with ExitStack() as stack:
            servers = []
            for peer in peers:
                try:
                    servers.append(stack.enter_context(start(peer, table, self.folder, cost)))
                except StartError as error:
                    self._mark(peer, "failed", [str(error)])
            self.results["idle_cpu"][str(table.rows)] = idle_cpu(self.cluster, servers)
            contenders = self._contend(servers, table, cells)
            if cost == CHEAP_HASH:
                contenders += self._ceilings(stack, table, cells)
            for cell in cells:
                self._take_turns(cell, contenders, table)

    def _contend(self, servers: Sequence[Server], table: Table, cells: Sequence[Cell]) -> list[Contender]:
        """The peers, each with cursors of its own where pages are wanted."""
        paging = any("page" in KINDS.get(cell.work, []) for cell in cells)
        found: list[Contender] = []
        for server in servers:
            requests = Requests(table.token, table.rows, 0)
            requests.cursors = try_harvest(server, requests, self.plan.cursors) if paging else []
            found.append(PeerContender(server, self.cluster, requests, self.folder, self.plan.samples))
            found.append(BulkContender(server, self.cluster, table))
        return found

    def _ceilings(self, stack: ExitStack, table: Table, cells: Sequence[Cell]) -> list[Contender]:
        """pgbench, COPY and constant bytes; pgbench's best number of clients is looked for here."""
        pgbench = Pgbench(self.cluster, table, self.folder)
        best: dict[str, int] = {}
        works = dict.fromkeys(cell.work for cell in cells if cell.connections == 64)
        for work in filter(pgbench.can, works):
            try:
                best[work], rates = pgbench.best_clients(work, self.plan.clients)
            except WorkError as error:
                self.say(str(error))
                continue
            self.results["pgbench_clients"][f"{work} {table.rows}"] = rates
        found: list[Contender] = [PgbenchContender(pgbench), PgbenchContender(pgbench, best)]
        found.append(CopyContender(Copy(self.cluster, table, self.folder)))
        if "point" in works:
            found.append(self._constant(stack, table))
        return found

    def _constant(self, stack: ExitStack, table: Table) -> Contender:
        """uvicorn alone, with a user's bytes."""
        body = table.one_user()
        server = stack.enter_context(start(CONSTANT, table, self.folder, BODY=body))
        requests = ConstantRequests(body.encode(), table.token, table.rows, 0)
        return ConstantContender(server, self.cluster, requests, self.folder, self.plan.samples)

    def _take_turns(self, cell: Cell, contenders: Sequence[Contender], table: Table) -> None:
        """All rounds of a cell: A B C, A B C."""
        for round_ in range(1, cell.rounds + 1):
            for contender in contenders:
                if not contender.can(cell):
                    continue
                for run in attempt(contender, cell, table):
                    self._note(cell, round_, contender.name, run)
                self.advance(cell, cell.seconds + OVERHEAD)
        if cell.work in WRITING:
            table.settle()

    def _note(self, cell: Cell, round_: int, name: str, run: Run) -> None:
        about = {"peer": name, "work": cell.work, "rows": cell.rows, "connections": cell.connections}
        about |= {"share": cell.share, "round": round_, "ended": time.time()}
        self.results["runs"].append(about | run)
        self.say(f"{cell}, round {round_}, {name}: {brief(run)}")


def brief(run: Run) -> str:
    """A run in a few words."""
    if run["void"]:
        return f"void: {run['void']}"
    words = f"{run['rate']:,.0f}/s"
    if "p99" in run:
        words += f", p50 {run['p50']:.1f} ms, p99 {run['p99']:.1f} ms"
    return words
