"""PostgreSQL for a run: the server, a database for each number of rows, its key, and its table put back."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg

from bench.postgres import run_postgres, url_of
from bench.processes import CHECKOUT, clean_environment, run

MOST_SHARED = 4 << 30

COMMAND_SECONDS = 3600
"""How long a command of the service may take; the seed of very many rows takes the longest."""


class SeedError(Exception):
    """The table cannot be filled; the message says why."""


def settings() -> list[str]:
    """Return PostgreSQL's settings. Commits stay durable: fsync and synchronous_commit are left on.

    What runs in the background at its own times is moved between the runs: vacuum and checkpoints.
    """
    shared = min(psutil.virtual_memory().total // 4, MOST_SHARED) >> 20
    return [
        "max_connections=800",  # fourteen services with twenty each, and 256 clients of pgbench
        f"shared_buffers={shared}MB",
        "max_wal_size=8GB",
        "checkpoint_timeout=1h",
        "autovacuum=off",
    ]


ONE_USER = """
select '{"id":' || id || ',"email":' || to_json(email) || ',"display_name":' || to_json(display_name)
    || ',"is_active":' || is_active || ',"created_at":' || to_json(created_at) || '}'
from users where id = %s
"""


class Cluster:
    """A running server: `url` is that of its database `postgres`."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self._postmaster = psutil.Process(pid)

    def cpu(self) -> float:
        """Return the seconds of CPU that all its processes have used, those that ended included."""
        while True:
            own = self._postmaster.cpu_times()
            used: float = sum(own)
            for process in self._postmaster.children():
                with suppress(psutil.NoSuchProcess):
                    used += sum(process.cpu_times()[:2])
            if self._postmaster.cpu_times()[2:] == own[2:]:  # none ended while we counted
                return used

    def wait_for_exits(self, seconds: float = 5) -> None:
        """Wait until the backends of clients that are gone have ended: their time is counted only then."""
        deadline = time.monotonic() + seconds
        before = -1.0
        while time.monotonic() < deadline and before != (before := self.cpu()):
            time.sleep(0.1)


@contextmanager
def start_cluster(folder: Path) -> Generator[Cluster]:
    """Run a server in a new folder while the block lasts. Raises PostgresError."""
    with run_postgres(folder, settings()) as pid:
        yield Cluster(url_of(folder), pid)


@dataclass(frozen=True)
class Table:
    """A database with `rows` users, whose ids are 1 to `rows`, and the one key that its services let in."""

    url: str
    rows: int
    token: str

    @property
    def key_hash(self) -> str:
        """The SHA-256 of the key in hex, which the peers compare."""
        return sha256(self.token.encode()).hexdigest()

    def reset(self) -> None:
        """Remove what runs have made; vacuum and write out all that they changed.

        Each writing run begins here, so that none pays for what the one before it has left.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("delete from users where id > %s", [self.rows])
            connection.execute("vacuum users")
            connection.execute("checkpoint")

    def count(self) -> int:
        """Return how many users there are, to see what an import has done."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute("select count(*) from users").fetchone()
            assert row
            return int(row[0])

    def one_user(self) -> str:
        """Return the JSON of one user, as a service answers it."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute(ONE_USER, [self.rows // 2 + 1]).fetchone()
            assert row
            return str(row[0])

    def folder(self) -> str:
        """Return the folder of the server's socket."""
        return str(psycopg.conninfo.conninfo_to_dict(self.url)["host"])


def make_table(cluster: Cluster, rows: int) -> Table:
    """Make a new database of `rows` users, with a key, by the service's own commands. Raises SeedError."""
    name = f"bench_{rows}"
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute(f"create database {name} template template0".encode())
    url = urlunsplit(urlsplit(cluster.url)._replace(path=f"/{name}"))
    run_service(url, "migrate")
    run_service(url, "seed", str(rows), "--seed", "1")
    check_ids(url, rows)
    token = run_service(url, "keys", "create", "--name", "bench", "--scopes", "all").splitlines()[-1]
    return Table(url, rows, token)


def run_service(url: str, *arguments: str) -> str:
    """Run a command of the service on a database; return its output. Raises SeedError where it fails."""
    command = [sys.executable, "-m", "svc", *arguments]
    code, said = run(command, COMMAND_SECONDS, CHECKOUT, {**clean_environment(), "DATABASE_URL": url})
    if code:
        raise SeedError(f"svc {arguments[0]} failed: {said.strip()[-300:]}")
    return said.strip()


def check_ids(url: str, rows: int) -> None:
    """Vacuum the table of users. Raises SeedError unless the ids are 1 to `rows`."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze users")
        found = connection.execute("select min(id), max(id), count(*) from users").fetchone()
    if found != (1, rows, rows):
        raise SeedError(f"expected the ids 1 to {rows}, found lowest, highest, count {found}")
