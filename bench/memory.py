"""Whether a million requests leave resident memory where it was: `python -m bench.memory`.

Point reads, pages, look-ups and changes in turn, after a warm-up of each.
"""

import argparse
from pathlib import Path

from bench.database import make_table, start_cluster
from bench.load import run_wrk
from bench.processes import watched_folder
from bench.roster import ROSTER, SERVICE, Server, start
from bench.work import TAGS, Requests, collect_cursors

ROWS = 100_000
WORKS = ("point", "point", "page", "point", "lookup", "point", "patch")


def load(server: Server, requests: Requests, folder: Path, seconds: float) -> int:
    """Run some seconds of each work; return how many requests these were. Raises WorkError."""
    return sum(run_wrk(server.port, requests.fresh(), work, 64, seconds, folder).requests for work in WORKS)


def main() -> None:
    """Print resident MB at the start, after the warm-up, and after each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    options = parser.parse_args()
    peer = next(peer for peer in ROSTER if peer.name == SERVICE)
    with watched_folder() as folder, start_cluster(folder / "data") as cluster:
        table = make_table(cluster, ROWS)
        with start(peer, table, folder) as server:
            requests = Requests(table.token, ROWS, next(TAGS))
            requests.cursors = collect_cursors(server.port, requests, 50)
            print(f"at the start {server.memory() / 1e6:.1f} MB")
            load(server, requests, folder, 2)
            before, done = server.memory(), 0
            print(f"after a warm-up {before / 1e6:.1f} MB", flush=True)
            while done < options.requests:
                done += load(server, requests, folder, 3)
                grown = (server.memory() - before) / 1e6
                print(f"after {done:,} requests {grown:+.1f} MB", flush=True)


if __name__ == "__main__":
    main()
