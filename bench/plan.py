"""What is measured, how often, and how long that takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

OVERHEAD = 0.4
"""Seconds around each run: reading CPU times, starting wrk."""


@dataclass(frozen=True)
class Cell:
    """One kind of work under one load, in so many rounds of all who take part.

    `seconds` is how long one run takes. `share` is the fixed rate as a share of the peer's own closed-loop
    rate; None for the closed loop.
    """

    rows: int
    work: str
    connections: int
    seconds: float
    rounds: int
    share: float | None = None

    def __str__(self) -> str:
        load = f"{self.connections} connections" if self.share is None else f"{self.share:.0%} of its rate"
        return f"{self.work}, {self.rows:,} rows, {load}"


@dataclass(frozen=True)
class Plan:
    """What is measured. `main_rows` is the size of table whose figures lead the report.

    For each peer: `starts` from nothing, `samples` of answers of each work, `cursors` of pages, requests of
    each kind over which round trips are counted (`trips`), and the seconds for which those without a
    request are (`idle`, 0 for not at all). `clients` are the numbers of clients among which pgbench's best
    is looked for.
    """

    cells: tuple[Cell, ...]
    main_rows: int
    starts: int
    samples: int
    cursors: int
    trips: int
    clients: tuple[int, ...]
    idle: float

    def measuring(self, peers: int) -> float:
        """Return the seconds of runs with so many peers; pgbench and its like are about one more."""
        return sum((cell.seconds + OVERHEAD) * cell.rounds * (peers + 1) for cell in self.cells)

    def seconds(self, peers: int) -> float:
        """Return about how many seconds all takes with so many peers, with what comes before the runs."""
        stages = {(cell.rows, cell.work == "register") for cell in self.cells}
        works = {(cell.rows, cell.work) for cell in self.cells}
        each = 0.5 + self.idle + 0.8 * (self.starts + 1 + len(stages)) + 0.03 * self.trips
        each += 0.005 * (self.samples * len(works) + 2 * self.cursors * len(stages))
        fixed = 5 + sum({cell.rows for cell in self.cells}) / 30_000 + 1.5 * len(self.clients) * len(works)
        return fixed + self.measuring(peers) + peers * each


def quick() -> Plan:
    """Return a plan of under five minutes with fourteen peers, which shows roughly what a change has done."""
    rows = 100_000
    cells = [Cell(rows, "point", 64, 1, 4)]
    cells += [Cell(rows, work, 64, 1, 1) for work in ("page", "lookup", "patch")]
    return Plan(tuple(cells), rows, starts=1, samples=50, cursors=20, trips=20, clients=(4, 16), idle=0)


def full() -> Plan:
    """Return a plan of under an hour with fourteen peers."""
    main = 1_000_000
    cells = [Cell(10_000, work, 64, 2, 2) for work in ("point", "page")]
    cells += [Cell(main, "point", connections, 3, rounds) for connections, rounds in LADDER]
    for work in ("page", "lookup", "patch", "create", "mix"):
        cells += [Cell(main, work, 64, 2, 3)]
        cells += [Cell(main, work, connections, 1, 1) for connections in (1, 8, 256)]
    cells += [Cell(main, "point", 64, 3, 1, share) for share in (0.25, 0.5, 0.75, 0.9)]
    cells += [Cell(main, work, 1, 0, 2) for work in ("export", "import")]
    cells += [Cell(main, "register", 64, 4, 3)]  # the first hash of each thread takes far longer
    cells += [Cell(10_000_000, work, 64, 2, 2) for work in ("point", "page")]
    clients = (1, 2, 4, 8, 16, 32, 64)
    return Plan(tuple(cells), main, starts=2, samples=100, cursors=100, trips=100, clients=clients, idle=1)


LADDER = ((1, 3), (8, 1), (64, 5), (256, 2))
"""Connections and rounds of the point reads, the figures that are quoted most."""


def narrow(plan: Plan, works: Sequence[str], rows: Sequence[int]) -> Plan:
    """Return the plan with these works and sizes alone, all of them where none are named.

    A size that the plan has not gets the cells of the main size.
    """
    cells = [cell for cell in plan.cells if not works or cell.work in works]
    main = plan.main_rows
    if rows:
        known = {cell.rows for cell in cells}
        added = [
            Cell(new, cell.work, cell.connections, cell.seconds, cell.rounds, cell.share)
            for new in rows
            if new not in known
            for cell in cells
            if cell.rows == plan.main_rows
        ]
        cells = [cell for cell in cells if cell.rows in rows] + added
        main = main if main in rows else max(rows)
    return replace(plan, cells=tuple(cells), main_rows=main)
