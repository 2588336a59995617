"""A real PostgreSQL, a fresh database for each test, and the real service on a real port before it."""

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import msgspec
import psycopg
import pytest
import uvicorn

from svc.config import Config, DatabaseUrl
from svc.db import Database
from svc.embedded import EmbeddedServer
from svc.migrate import migrate
from svc.security import SCOPES, ApiKeyQueries, create_key
from svc.serve import configure

QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
"""A test's data may be lost with the machine; a hundred databases are made quicker so."""

TEMPLATE = f"bareline_test_{os.getpid()}"
NUMBERS = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What takes minutes is only sampled, unless it is asked for."""
    parser.addoption("--full", action="store_true", help="try every drift, and race 100,000 reads")


def skip_before_18(url: str) -> None:
    """`svc check` proves on the embedded PostgreSQL; older ones print their trees otherwise."""
    with psycopg.connect(url) as connection:
        if connection.info.server_version < 180000:
            pytest.skip("svc check runs on PostgreSQL 18")


def at(url: str, database: str) -> DatabaseUrl:
    """The URL of another database on the same server."""
    return DatabaseUrl(urlunsplit(urlsplit(url)._replace(path=f"/{database}")))


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


@pytest.fixture
def empty_url(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[DatabaseUrl]:
    """A database with nothing in it."""
    name = f"{TEMPLATE}_{next(NUMBERS)}"
    admin(f"create database {name} template template0")
    yield at(server_url, name)
    admin(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def template(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[str]:
    """The name of a migrated database, to be cloned."""
    admin(f"create database {TEMPLATE} template template0")
    asyncio.run(migrate(Config(database_url=at(server_url, TEMPLATE))))
    yield TEMPLATE
    admin(f"drop database {TEMPLATE} with (force)")


@pytest.fixture
def database_url(
    server_url: DatabaseUrl, admin: Callable[[str], None], template: str
) -> Iterator[DatabaseUrl]:
    """A migrated database of this test's own, with no rows in it."""
    name = f"{TEMPLATE}_{next(NUMBERS)}"
    admin(f"create database {name} template {template}")
    yield at(server_url, name)
    admin(f"drop database {name} with (force)")


@pytest.fixture
def config(database_url: DatabaseUrl) -> Config:
    """The service's configuration in tests: passwords hashed as cheaply as argon2 can."""
    return Config(database_url=database_url, hash_memory=8, hash_passes=1, pool_size=4)


@pytest.fixture
def sql(database_url: DatabaseUrl) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Runs SQL past the service: `sql("select …", argument)` gives rows."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        def run(statement: str, *arguments: object) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

        yield run


class Service:
    """The real service, served by uvicorn on a port of its own, in a thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.server = uvicorn.Server(configure(config))
        self._thread = threading.Thread(target=self.server.run, args=([self._listener],))

    def __enter__(self) -> "Service":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()

    def client(self, token: str | None = None) -> httpx.Client:
        """A client that holds a key, or none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


def make_key(config: Config, *scopes: str, name: str = "test") -> str:
    """A new key with these scopes, or all."""

    async def make() -> str:
        database = Database(config)
        try:
            return await create_key(name, list(scopes or SCOPES), None, ApiKeyQueries.bind(database))
        finally:
            await database.close()

    return asyncio.run(make())


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


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer, after what every problem must have was checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["request_id"] == response.headers["x-request-id"]
    assert {"type", "title", "detail"} <= document.keys()
    return document


def pointers(document: dict[str, Any]) -> set[str]:
    """What a problem names as failing."""
    return {error["pointer"] for error in document["errors"]}


def with_settings(config: Config, **settings: Any) -> Config:
    """The configuration with some settings changed."""
    return msgspec.structs.replace(config, **settings)


CHECKOUT = Path(__file__).parent.parent
