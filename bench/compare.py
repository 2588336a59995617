"""This checkout against another revision of it: `python -m bench.compare v0.1`.

Both are up at once and take turns, so that a machine that drifts drifts for both. The table has the medians
of the ratios within each round: 1.05 is 5 % more requests a second, or 5 % more seconds and bytes.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.analysis import median_of, median_ratio
from bench.database import Table, make_table, start_cluster
from bench.measure import PeerContender, attempt
from bench.plan import Cell
from bench.processes import CHECKOUT, watched_folder
from bench.records import Outcome
from bench.roster import Peer, Server, StartError, service, start
from bench.work import KINDS, TAGS, TITLES, Requests, collect_cursors

WORKS = ("point", "page", "lookup", "patch", "create")


class Pair(NamedTuple):
    """One work: the outcomes before and after, one of each a round."""

    work: str
    before: list[Outcome]
    after: list[Outcome]

    def ratio(self) -> float | None:
        """Return how many times the requests a second it is."""
        return median_ratio(find_rates(self.after), find_rates(self.before))

    def cpu_ratio(self) -> float | None:
        """Return how many times the CPU a request it takes: less is better."""
        return median_ratio(find_cpu(self.after), find_cpu(self.before))


def find_cpu(outcomes: Sequence[Outcome]) -> dict[int, float]:
    """Return the CPU of the service and of PostgreSQL a request, in µs, of each round that counts."""
    return {
        number: (each.cpu_service or 0) + (each.cpu_postgres or 0)
        for number, each in enumerate(outcomes)
        if each.void is None
    }


def find_rates(outcomes: Sequence[Outcome]) -> dict[int, float]:
    """Return the rate of each round that counts."""
    return {
        number: each.rate
        for number, each in enumerate(outcomes)
        if each.rate is not None and each.void is None
    }


@contextmanager
def checked_out(revision: str) -> Generator[Path]:
    """Make a folder with another revision for as long as a block lasts. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="bench-before-") as folder:
        git = ["git", "-C", str(CHECKOUT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", folder, revision], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


def at(folder: Path, name: str) -> Peer:
    """Return the service out of a checkout."""
    peer = service(name, name)
    return Peer(peer.name, peer.title, peer.command, peer.sources, folder=folder)


def compare(revision: str, cells: Sequence[Cell]) -> tuple[list[Pair], list[str]]:
    """Measure all cells in turns; return the pairs, and lines on starts and memory."""
    with (
        checked_out(revision) as old,
        watched_folder() as folder,
        start_cluster(folder / "data") as cluster,
        ExitStack() as stack,
    ):
        table = make_table(cluster, cells[0].rows)
        servers, contenders = [], []
        for peer in (at(old, "before"), at(CHECKOUT, "after")):
            server = stack.enter_context(start(peer, table, folder))
            requests = Requests(table.token, cells[0].rows, next(TAGS))
            requests.cursors = collect_cursors(server.port, requests, 50)
            servers.append(server)
            contenders.append(PeerContender(server, cluster, requests, folder, samples=50))
        pairs = []
        for cell in cells:
            pair = Pair(cell.work, [], [])
            for _ in range(cell.rounds):
                for contender, outcomes in zip(contenders, (pair.before, pair.after), strict=True):
                    outcomes.append(attempt(contender, cell, table)[-1])
            pairs.append(pair)
        return pairs, [compare_memory(servers), compare_starts(old, table, folder)]


def compare_memory(servers: Sequence[Server]) -> str:
    """Return a line on what both hold after the same requests."""
    before, after = (server.memory() for server in servers)
    shown = f"{before / 2**20:.0f} MiB | {after / 2**20:.0f} MiB"
    return f"| memory after all of it | {shown} | {after / before:.2f} | |"


def compare_starts(old: Path, table: Table, folder: Path, rounds: int = 5) -> str:
    """Return a line on how long a start takes up to the first user read."""
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(rounds):
        for peer in (at(old, "before"), at(CHECKOUT, "after")):
            with start(peer, table, folder) as server:
                seconds[peer.name].append(server.started_in)
    before, after = (median_of(seconds[name]) or 0 for name in ("before", "after"))
    return f"| start to the first user read | {before:.2f} s | {after:.2f} s | {after / before:.2f} | |"


def write_row(pair: Pair) -> str:
    """Return the row of a work: medians of the rates, of the ratios, of the CPU a request in µs."""
    before, after = (median_of(find_rates(each).values()) for each in (pair.before, pair.after))
    if not before or not after:
        void = next(each.void for each in (*pair.before, *pair.after) if each.void)
        return f"| {TITLES[pair.work]} | void: {void} |"
    figures = f"{before:,.0f}/s | {after:,.0f}/s | {pair.ratio():.2f} | {pair.cpu_ratio():.2f}"
    return f"| {TITLES[pair.work]} | {figures} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", help="what git calls the other one")
    parser.add_argument("--work", default=",".join(WORKS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    cells = [
        Cell(options.rows, work, options.connections, options.seconds, options.rounds)
        for work in options.work.split(",")
    ]
    try:
        pairs, more = compare(options.revision, cells)
    except (StartError, subprocess.CalledProcessError) as error:
        parser.exit(1, f"{error}\n")
    print("| | before | after | ratio | of CPU |\n|---|---:|---:|---:|---:|")
    print("\n".join([*map(write_row, pairs), *more]))


if __name__ == "__main__":
    main()
