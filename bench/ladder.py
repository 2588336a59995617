"""What each lever of the fast path is worth: `python -m bench.ladder`.

Each rung is the one before it with one thing more, up to the service as it is. All are up at once and take
turns, as in the suite; the table has medians, and medians of the ratios within each round.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from bench.analysis import median_ratio
from bench.database import make_table, start_cluster
from bench.measure import PeerContender, Run, attempt
from bench.plan import Cell
from bench.processes import watched_folder
from bench.roster import UVICORN, Peer, service, start
from bench.rungs import RUNGS
from bench.work import TAGS, Requests

OWN = [
    service("plain", "the service: ETags, problems, limits, one write (`--no-short-cut --no-batching`)",
            "--no-short-cut", "--no-batching"),
    service("batching", "and batching (`--no-short-cut`)", "--no-short-cut"),
    service("short_cut", "and the short cut"),
]  # fmt: skip
APART = service("unbatched", "the short cut without batching (`--no-batching`)", "--no-batching")


def climb(rows: int, seconds: float, rounds: int, connections: int) -> list[tuple[str, list[Run]]]:
    """The runs of each rung, by what it has more. Raises what a start raises."""
    peers = [Peer(name, title, (*UVICORN, "bench.rungs:app"), ()) for name, title in RUNGS.items()]
    peers += [*OWN, APART]
    cell = Cell(rows, "point", connections, seconds, rounds)
    with watched_folder() as folder, start_cluster(folder / "data") as cluster, ExitStack() as stack:
        table = make_table(cluster, rows)
        contenders = []
        for peer in peers:
            server = stack.enter_context(start(peer, table, folder, RUNG=peer.name))
            requests = Requests(table.token, rows, next(TAGS))
            contenders.append(PeerContender(server, cluster, requests, folder, samples=50))
        runs: list[tuple[str, list[Run]]] = [(peer.title, []) for peer in peers]
        for round_ in range(rounds):
            for contender, (_, found) in zip(contenders, runs, strict=True):
                found.append({"round": round_, **attempt(contender, cell, table)[-1]})
    return runs


def write_table(runs: Sequence[tuple[str, list[Run]]]) -> str:
    """Markdown; a rung with a void run has no figures."""
    lines = ["| | reads/s | of the first | p50 ms | p99 ms | CPU µs, service | CPU µs, PostgreSQL |"]
    lines.append("|---|" + "---:|" * 6)
    for title, found in runs:
        if wrong := next((run["void"] for run in found if run["void"]), None):
            lines.append(f"| {title} | void: {wrong} |")
            continue
        rate, p50, p99, service_, postgres = (
            median(run[figure] for run in found)
            for figure in ("rate", "p50", "p99", "cpu_service", "cpu_postgres")
        )
        ratio = median_ratio(found, runs[0][1])
        latency = f"{p50:.2f} | {p99:.2f}"
        lines.append(
            f"| {title} | {rate:,.0f} | {ratio:.2f}× | {latency} | {service_:.0f} | {postgres:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    print(write_table(climb(options.rows, options.seconds, options.rounds, options.connections)))


if __name__ == "__main__":
    main()
