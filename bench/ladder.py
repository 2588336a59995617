"""What each lever of the fast path is worth: `python -m bench.ladder`.

Each rung is the one before it with one thing more, up to the service as it is. All are up at once and take
turns, as in the suite; the table has medians, and medians of the ratios within each round. The lower rungs
serve point reads alone; the ladders of other works, `--work page,patch,lookup,create`, begin with the
service.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench.analysis import median_of, median_ratio
from bench.database import make_table, start_cluster
from bench.measure import PeerContender, attempt
from bench.plan import Cell
from bench.processes import watched_folder
from bench.records import Outcome
from bench.roster import UVICORN, Peer, service, start
from bench.rungs import RUNGS
from bench.work import KINDS, TAGS, TITLES, Requests, collect_cursors

OWN = [
    service("plain", "the service: ETags, problems, limits, one write (`--no-short-cut --no-batching`)",
            "--no-short-cut", "--no-batching"),
    service("batching", "and batching (`--no-short-cut`)", "--no-short-cut"),
    service("short_cut", "and the short cut"),
]  # fmt: skip
APART = service("unbatched", "the short cut without batching (`--no-batching`)", "--no-batching")


class Rung(NamedTuple):
    """One rung, by what it has more than the one before it, and its outcomes, one a round."""

    title: str
    outcomes: list[Outcome]

    def rates(self) -> dict[int, float]:
        """Return the rate of each round."""
        return {n: each.rate for n, each in enumerate(self.outcomes) if each.rate is not None}


def climb(cell: Cell) -> list[Rung]:
    """Measure all rungs of a work in turns. Raises what a start raises."""
    lower = RUNGS if cell.work == "point" else {}
    peers = [Peer(name, title, (*UVICORN, "bench.rungs:app"), ()) for name, title in lower.items()]
    peers += [*OWN, APART]
    with watched_folder() as folder, start_cluster(folder / "data") as cluster, ExitStack() as stack:
        table = make_table(cluster, cell.rows)
        contenders = []
        for peer in peers:
            server = stack.enter_context(start(peer, table, folder, RUNG=peer.name))
            requests = Requests(table.token, cell.rows, next(TAGS))
            if "page" in KINDS[cell.work]:
                requests.cursors = collect_cursors(server.port, requests, 50)
            contenders.append(PeerContender(server, cluster, requests, folder, samples=50))
        rungs = [Rung(peer.title, []) for peer in peers]
        for _ in range(cell.rounds):
            for contender, rung in zip(contenders, rungs, strict=True):
                rung.outcomes.append(attempt(contender, cell, table)[-1])
    return rungs


def write_table(rungs: Sequence[Rung], title: str) -> str:
    """Return a table as Markdown; a rung with a void run has no figures."""
    lines = [
        f"| {title} | requests/s | of the first | p50 ms | p99 ms | CPU µs, service | CPU µs, PostgreSQL |"
    ]
    lines.append("|---|" + "---:|" * 6)
    return "\n".join([*lines, *(write_row(rung, rungs[0]) for rung in rungs)])


def write_row(rung: Rung, first: Rung) -> str:
    """Return the row of a rung: medians, and the median of the ratios to the first within each round."""
    found = rung.outcomes
    if wrong := next((outcome.void for outcome in found if outcome.void), None):
        return f"| {rung.title} | void: {wrong} |"
    rate = median_of(rung.rates().values())
    ratio = median_ratio(rung.rates(), first.rates())
    p50 = median_of(outcome.p50 for outcome in found)
    p99 = median_of(outcome.p99 for outcome in found)
    service_ = median_of(outcome.cpu_service for outcome in found)
    postgres = median_of(outcome.cpu_postgres for outcome in found)
    latency = f"{p50:.2f} | {p99:.2f}"
    return f"| {rung.title} | {rate:,.0f} | {ratio:.2f}× | {latency} | {service_:.0f} | {postgres:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="point", help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    for work in options.work.split(","):
        cell = Cell(options.rows, work, options.connections, options.seconds, options.rounds)
        print(write_table(climb(cell), TITLES[work]), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
