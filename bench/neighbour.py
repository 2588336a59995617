"""What one client does to the others: `python -m bench.neighbour [--before REV] [--abuses A,B]`.

A neighbour reads a user each 20 ms, on some connections of its own, while another client does something
(bench/abuse.py). Each row is one service, started for it: first the neighbour beside as many connections of
plain point reads, the yardstick; then beside the abuse. A latency counts from the moment at which the read
was due, so a stall counts in full. Memory is that of the service, at its largest, over what it was before.
"""

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg
from msgspec import Struct

from bench.abuse import ABUSES, Task, write_get
from bench.compare import at, checked_out
from bench.database import Table, make_table, start_cluster
from bench.openloop import Generator, InvalidAnswer, percentile
from bench.processes import CHECKOUT, end, spawn, watched_folder
from bench.roster import REAL_HASH, Peer, Server, start
from bench.wire import WireError
from bench.work import Request, check_user

INTERVAL = 0.02
"""Seconds between two reads of the neighbour."""

CONNECTIONS = 50
"""Of the neighbour: a read that is answered late keeps none behind it waiting."""

LEAD = 0.5
"""Seconds that an abuse is under way before the neighbour is looked at."""

YARDSTICK = "points"

PROFILE_SIZE, PROFILES = 250_000, 1000
"""Bytes of the largest profiles, and how many users have one."""


class Row(NamedTuple):
    """An abuse, over how many connections, against which service."""

    kind: str
    connections: int
    open_registration: bool = False


ROWS = [
    Row("readiness", 200),
    Row("strangers", 200),
    Row("nowhere", 200),
    Row("blanks in a body", 1),
    Row("blanks in a query", 1),
    Row("blanks in an import", 1),
    Row("long addresses", 1),
    Row("one-byte chunks", 1),
    Row("many fields", 1),
    Row("empty lines", 1),
    Row("nested values", 1),
    Row("large profiles", 1),
    Row("large profiles", 4),
    Row("large pages", 20),
    Row("exact counts", 20),
    Row("walks", 4),
    Row("exports", 5),
    Row("unfinished heads", 300),
    Row("unfinished bodies", 300),
    Row("slow exports", 5),
    Row("slow imports", 5),
    Row("endless bodies", 4),
    Row("short connections", 4),
    Row("registrations", 50, open_registration=True),
]


class Seen(Struct):
    """What the neighbour saw: ms, MB that the service grew by, and why it ended early, if it did."""

    p50: float
    p99: float
    worst: float
    memory: float
    failed: str


def watch(port: int, token: str, seconds: float) -> tuple[list[float], str]:
    """Read a user each INTERVAL; return the latencies in seconds, and why it ended early, if it did."""
    raw = write_get("/users/1", f"Authorization: Bearer {token}")
    count = int(seconds / INTERVAL)
    generator = Generator(port, [Request(raw, check_user, 1)] * count, 1 / INTERVAL, CONNECTIONS)
    try:
        generator.run()
    except (InvalidAnswer, WireError, OSError) as error:
        return [*generator.latencies], str(error)
    finally:
        generator.close()
    return [*generator.latencies], ""


@contextmanager
def abused(task: Task) -> Iterator[None]:
    """Do something to a service for as long as a block lasts."""
    process = spawn([sys.executable, "-m", "bench.abuse"], stdin=subprocess.PIPE, folder=CHECKOUT)
    assert process.stdin
    process.stdin.write(msgspec.json.encode(task))
    process.stdin.close()
    try:
        time.sleep(LEAD)
        yield
    finally:
        end(process, 1)


@contextmanager
def weighed(server: Server) -> Iterator[list[float]]:
    """Give the MB that a service grew by, at most, once the block has ended."""
    grown, before, stop = [0.0], server.memory(), threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            grown[0] = max(grown[0], (server.memory() - before) / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield grown
    finally:
        stop.set()
        thread.join()


def look_beside(server: Server, table: Table, kind: str, connections: int, seconds: float) -> Seen:
    """Return what the neighbour sees beside an abuse."""
    task = Task(kind, server.port, table.token, connections, seconds + 60)
    with weighed(server) as grown, abused(task):
        latencies, failed = watch(server.port, table.token, seconds)
    latencies.sort()
    p50, p99 = (percentile(latencies, share) * 1e3 for share in (0.5, 0.99))
    return Seen(p50, p99, latencies[-1] * 1e3, grown[0], failed)


def measure(peer: Peer, row: Row, table: Table, folder: Path, seconds: float) -> tuple[Seen, Seen]:
    """Return what the neighbour of one row sees: beside the yardstick, and beside the abuse."""
    environment = {"OPEN_REGISTRATION": "true", "SVC_HASH_THREADS": "1"} if row.open_registration else {}
    with start(peer, table, folder, REAL_HASH, **environment) as server:
        yardstick = look_beside(server, table, YARDSTICK, row.connections, seconds)
        time.sleep(LEAD)
        return yardstick, look_beside(server, table, row.kind, row.connections, seconds)


def enlarge_profiles(table: Table) -> None:
    """Give the last users large profiles."""
    with psycopg.connect(table.url, autocommit=True) as connection:
        connection.execute(
            "update users set profile = jsonb_build_object('a', repeat('x', %s)) where id > %s",
            [PROFILE_SIZE, table.rows - PROFILES],
        )
        connection.execute("vacuum analyze users")


def show(row: Row, name: str, yardstick: Seen, seen: Seen) -> str:
    """Return a line of the table."""
    cells = [
        f"{row.kind} ×{row.connections}",
        name,
        f"{yardstick.p99:.1f}",
        f"{seen.p50:.1f}",
        f"{seen.p99:.1f}",
        f"{seen.p99 / yardstick.p99:.2f}",
        f"{seen.worst:.0f}",
        f"{seen.memory:+.0f}",
        seen.failed or "-",
    ]
    return f"| {' | '.join(cells)} |"


TITLE = """\
| one client does | service | yardstick p99 ms | p50 | p99 | ratio | worst ms | MB | ended by |
|---|---|---|---|---|---|---|---|---|"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", metavar="REV", help="measure this revision beside the checkout")
    parser.add_argument("--abuses", default=",".join(ABUSES), metavar="A,B", help="some of the rows")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measure")
    parser.add_argument("--rows", type=int, default=300_000, help="users in the table")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = make_parser().parse_args(arguments)
    chosen = [row for row in ROWS if row.kind in options.abuses.split(",")]
    with ExitStack() as stack:
        peers = [at(CHECKOUT, "after")]
        if options.before:
            peers.insert(0, at(stack.enter_context(checked_out(options.before)), "before"))
        folder = stack.enter_context(watched_folder())
        table = make_table(stack.enter_context(start_cluster(folder / "data")), options.rows)
        enlarge_profiles(table)
        print(TITLE, flush=True)
        for row in chosen:
            for peer in peers:
                yardstick, seen = measure(peer, row, table, folder, options.seconds)
                print(show(row, peer.name, yardstick, seen), flush=True)


if __name__ == "__main__":
    main()
