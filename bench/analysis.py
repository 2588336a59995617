"""From single runs to figures: medians, spreads, ratios pair by pair."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from bench.records import CellKey, Environment, Figure, PeerRecord, Run

PGBENCH = ("pgbench", "pgbench_best")
CEILINGS = {
    "pgbench": "pgbench, as many clients",
    "pgbench_best": "pgbench, at its best",
    "constant": "uvicorn, constant bytes",
    "copy": "COPY by psql",
}


class Results(Struct, kw_only=True):
    """All that a run of the suite has found, as raw.json holds it. Void runs never count in a figure.

    `peers` are by name. `pgbench_clients` has the statements per second of each number of clients, by work
    and rows (`point 100000`); `idle_cpu` the share of one core that each process takes while nobody asks
    anything, by rows and name.
    """

    environment: Environment
    quick: bool
    main_rows: int
    peers: dict[str, PeerRecord]
    runs: list[Run] = []
    pgbench_clients: dict[str, dict[int, float]] = {}
    idle_cpu: dict[int, dict[str, float]] = {}

    def title(self, name: str) -> str:
        """Return the name under which people know a peer or a ceiling."""
        return CEILINGS.get(name) or self.peers[name].title

    def cells(self) -> list[CellKey]:
        """Return all that was measured, in order."""
        return list(dict.fromkeys(run.cell for run in self.runs))

    def of(self, cell: CellKey) -> list[Run]:
        """Return all runs of a cell."""
        return [run for run in self.runs if run.cell == cell]

    def valid(self, name: str, cell: CellKey) -> list[Run]:
        """Return the runs of a cell that count for a peer or a ceiling."""
        return [run for run in self.of(cell) if run.peer == name and run.void is None]

    def names(self, cell: CellKey) -> list[str]:
        """Return who took part, the fastest first; those with void runs alone come last."""
        names = dict.fromkeys(run.peer for run in self.of(cell))
        return sorted(names, key=lambda name: -(self.median(name, cell, "rate") or 0))

    def median(self, name: str, cell: CellKey, figure: Figure) -> float | None:
        """Return the median of a figure over the rounds, None where there is none."""
        found: list[float | None] = [getattr(run, figure) for run in self.valid(name, cell)]
        return median_of(found)

    def rates(self, name: str, cell: CellKey) -> dict[int, float]:
        """Return the rate of each round."""
        return {run.round: run.rate for run in self.valid(name, cell) if run.rate is not None}

    def spread(self, name: str, cell: CellKey) -> tuple[float, float] | None:
        """Return the lowest and the highest rate."""
        rates = self.rates(name, cell).values()
        return (min(rates), max(rates)) if rates else None

    def ratio(self, name: str, other: str, cell: CellKey) -> float | None:
        """Return how many times the other's rate it is: the median of the ratios within each round."""
        return median_ratio(self.rates(name, cell), self.rates(other, cell))

    def ceiling(self, cell: CellKey) -> float | None:
        """Return the highest rate of PostgreSQL alone at this work: the best of pgbench, or COPY."""
        at_64 = CellKey(cell.work, cell.rows, 64)
        found = [self.median(name, each, "rate") for name in PGBENCH for each in (cell, at_64)]
        found.append(self.median("copy", cell, "rate"))
        return max((rate for rate in found if rate), default=None)

    def share(self, name: str, cell: CellKey) -> float | None:
        """Return the part of the ceiling that is reached."""
        rate, ceiling = self.median(name, cell, "rate"), self.ceiling(cell)
        return rate / ceiling if rate and ceiling else None


def median_of(values: Iterable[float | None]) -> float | None:
    """Return the median of what was measured, None where nothing was."""
    found = [value for value in values if value is not None]
    return median(found) if found else None


def median_ratio(ones: Mapping[int, float], others: Mapping[int, float]) -> float | None:
    """Return the median of one rate over the other of the same round; the rates are by round."""
    return median_of(rate / others[round_] for round_, rate in ones.items() if round_ in others)


def read_results(path: Path) -> Results:
    """Read a raw.json. Raises msgspec.ValidationError where it is none."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write_results(results: Results, path: Path) -> None:
    """Write a raw.json."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
