"""A real PostgreSQL, a fresh database for each test, and the real service on a real port before it."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, settings

from svc import health
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.embedded import EmbeddedServer
from svc.migrations import migrate
from tests.support import NUMBERS, QUICK, TEMPLATE, Service, at, command_line, make_config, make_key
from tests.support.databases import Databases
from tests.support.statuses import undeclared, watch_statuses
from tests.support.waiting import DEADLINE

ROOM = 4 * 2**30
"""Bytes that must be free in memory for files: a run has up to 1 GiB of them at a time."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """What takes minutes is only sampled, unless it is asked for."""
    parser.addoption("--full", action="store_true", help="try every drift, race 100,000 reads, cast new dice")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported that depends on it."""
    configure_properties(full=config.getoption("--full"))
    keep_files_in_memory()


def configure_properties(*, full: bool) -> None:
    """Properties take the time that they need, and are tried on the same examples in each run but a full one."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    settings.register_profile(
        "tests",
        deadline=None,
        derandomize=not full,
        database=None,
        suppress_health_check=slow,
    )
    settings.load_profile("tests")


def keep_files_in_memory() -> None:
    """Makes a disk in memory the place of temporary files, unless there is little room or another was chosen.

    Before ext4 makes a file, it looks at each that was deleted lately. Where servers and databases come and
    go by the hundred, `create database` takes 200 ms of CPU, and 12 in memory.
    """
    memory = Path("/dev/shm")
    fits = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    if fits and "TMPDIR" not in os.environ:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseUrl]:
    """A server that may be filled with databases: TEST_DATABASE_URL, or an embedded one."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield DatabaseUrl.parse(url)
        return
    with EmbeddedServer(tmp_path_factory.mktemp("postgres"), QUICK) as server:
        yield DatabaseUrl(server.url)


@pytest.fixture(scope="session")
def admin(server_url: DatabaseUrl) -> Iterator[Callable[[str], None]]:
    """Runs a statement on the server, outside of any test's database."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        yield lambda statement: connection.execute(statement.encode()) and None


@pytest.fixture(scope="module", autouse=True)
def clean_up() -> Iterator[None]:
    """Leaves no command running, whatever fails."""
    yield
    command_line.clean_up()


@pytest.fixture(scope="session", autouse=True)
def watch() -> Iterator[None]:
    """Looks at the status of all that is answered in this process."""
    with watch_statuses():
        yield


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    """Fails a test in which an operation gave a status that it does not declare."""
    undeclared.clear()
    yield
    assert undeclared == []


@pytest.fixture
def empty_url(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[DatabaseUrl]:
    """A database with nothing in it."""
    name = f"{TEMPLATE}_{next(NUMBERS)}"
    admin(f"create database {name} template template0 strategy file_copy")
    yield at(server_url, name)
    admin(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def template(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[str]:
    """The name of a migrated database, to be cloned."""
    admin(f"create database {TEMPLATE} template template0")
    asyncio.run(migrate(make_config(at(server_url, TEMPLATE))))
    yield TEMPLATE
    admin(f"drop database {TEMPLATE} with (force)")


@pytest.fixture(scope="session")
def databases(server_url: DatabaseUrl, admin: Callable[[str], None], template: str) -> Databases:
    """Migrated databases."""
    return Databases(server_url, admin, template)


@pytest.fixture
def database_url(databases: Databases) -> Iterator[DatabaseUrl]:
    """A migrated database of this test's own, with no rows in it."""
    with databases.lend() as url:
        yield url


@pytest.fixture
def config(database_url: DatabaseUrl) -> Config:
    """The service's configuration in tests."""
    return make_config(database_url)


@pytest.fixture
def sql(database_url: DatabaseUrl) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Runs SQL past the service: `sql("select …", argument)` gives rows. Waits for no lock for ever."""
    with psycopg.connect(
        database_url, autocommit=True, options=f"-c lock_timeout={DEADLINE:.0f}s"
    ) as connection:

        def run(statement: str, *arguments: object) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
def service(config: Config) -> Iterator[Service]:
    """The service on this test's database."""
    with Service(config) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """A client that may do everything."""
    with service.client(make_key(service.config)) as client:
        yield client


@pytest.fixture
def users(client: httpx.Client) -> list[dict[str, Any]]:
    """Three users, as their creation answered them: a query that forgets its `where` shows."""
    bodies = [
        {"email": f"{name.lower()}@example.com", "password": "correct horse", "display_name": name}
        for name in ("Ada", "Bob", "Cyd")
    ]
    return [client.post("/users", json=body).raise_for_status().json() for body in bodies]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that looks each time it is asked, unless it is looking."""
    monkeypatch.setattr(health, "PROBE_INTERVAL", 0.0)
