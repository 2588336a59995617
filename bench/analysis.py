"""From single runs to figures: medians, spreads, ratios pair by pair."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

Run = dict[str, Any]
Cell = tuple[str, int, int, float | None]
"""Work, rows, connections, share of its own rate (None for the closed loop)."""

PGBENCH = ("pgbench", "pgbench_best")
CEILINGS = {
    "pgbench": "pgbench, as many clients",
    "pgbench_best": "pgbench, at its best",
    "constant": "uvicorn, constant bytes",
    "copy": "COPY by psql",
}


class Results:
    """What raw.json holds, asked for figures. Void runs never count."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.runs: list[Run] = raw["runs"]
        self.peers: dict[str, dict[str, Any]] = raw["peers"]
        self.main_rows: int = raw["main_rows"]

    def title(self, name: str) -> str:
        """As people know it."""
        return CEILINGS.get(name) or str(self.peers[name]["title"])

    def cells(self) -> list[Cell]:
        """All that was measured, in order."""
        return list(dict.fromkeys((r["work"], r["rows"], r["connections"], r["share"]) for r in self.runs))

    def valid(self, name: str, cell: Cell) -> list[Run]:
        """A contender's runs of a cell that count."""
        return [run for run in self.of(cell) if run["peer"] == name and run["void"] is None]

    def of(self, cell: Cell) -> list[Run]:
        """All runs of a cell."""
        return [r for r in self.runs if (r["work"], r["rows"], r["connections"], r["share"]) == cell]

    def names(self, cell: Cell) -> list[str]:
        """Who took part, the fastest first; those with void runs alone come last."""
        names = dict.fromkeys(run["peer"] for run in self.of(cell))
        return sorted(names, key=lambda name: -(self.median(name, cell, "rate") or 0))

    def median(self, name: str, cell: Cell, figure: str) -> float | None:
        """The median over rounds, None without any."""
        values = [run[figure] for run in self.valid(name, cell) if run.get(figure) is not None]
        return median(values) if values else None

    def spread(self, name: str, cell: Cell) -> tuple[float, float] | None:
        """The lowest and the highest rate."""
        rates = [run["rate"] for run in self.valid(name, cell)]
        return (min(rates), max(rates)) if rates else None

    def ratio(self, name: str, other: str, cell: Cell) -> float | None:
        """How many times the other's rate, as the median of the ratios within each round."""
        return median_ratio(self.valid(name, cell), self.valid(other, cell))

    def ceiling(self, cell: Cell) -> float | None:
        """The most that PostgreSQL itself does of this work: the best of pgbench, or COPY."""
        work, rows, _, _ = cell
        at_64 = (work, rows, 64, None)
        found = [self.median(name, each, "rate") for name in PGBENCH for each in (cell, at_64)]
        found.append(self.median("copy", cell, "rate"))
        return max((rate for rate in found if rate), default=None)

    def share(self, name: str, cell: Cell) -> float | None:
        """The part of the ceiling that is reached."""
        rate, ceiling = self.median(name, cell, "rate"), self.ceiling(cell)
        return rate / ceiling if rate and ceiling else None


def median_ratio(ones: Sequence[Run], others: Iterable[Run]) -> float | None:
    """The median of one's rate over the other's, round by round, where both have one."""
    theirs = {run["round"]: run["rate"] for run in others}
    ratios = [run["rate"] / theirs[run["round"]] for run in ones if run["round"] in theirs]
    return median(ratios) if ratios else None
