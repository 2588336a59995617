"""What tests of all rooms share: the service on a port, keys, databases, problems."""

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import msgspec
import psycopg
import pytest
import uvicorn
from starlette.types import ASGIApp

from svc.accounts.keys import ApiKeyQueries, create_key
from svc.app import build_resources
from svc.check.catalog import ANALYSIS
from svc.check.wiring import check_wiring
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.http import resource
from svc.http.application import make_app, warm
from svc.http.problems import Problem, find_problem
from svc.postgres.errors import translate
from svc.postgres.pool import Database
from svc.postgres.proven import Proven, read_written
from svc.server import configure
from tests.support.waiting import DEADLINE, wait_for

QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
"""A test's data may be lost with the machine; a hundred databases are made quicker so."""

TEMPLATE = f"bareline_test_{os.getpid()}"
NUMBERS = itertools.count(1)


def skip_before_18(url: str) -> None:
    """`svc check` proves on the embedded PostgreSQL; older ones print their trees otherwise."""
    with psycopg.connect(url) as connection:
        if connection.info.server_version < 180000:
            pytest.skip("svc check runs on PostgreSQL 18")


def add_option(url: str | None, option: str) -> DatabaseUrl:
    """Return a URL with one more option."""
    return DatabaseUrl(f"{url}{'&' if '?' in str(url) else '?'}{option}")


def at(url: str, database: str) -> DatabaseUrl:
    """The URL of another database on the same server."""
    return DatabaseUrl(urlunsplit(urlsplit(url)._replace(path=f"/{database}")))


RESOURCES = [resource.MACHINERY, ANALYSIS, *build_resources(resource.Outline(Config()))]
"""What the app lists, and the machinery's own part."""

QUERIES: list[Any] = resource.collect_queries(RESOURCES)
SCOPES = resource.collect_scopes(RESOURCES)
CONSTRAINTS = resource.collect_constraints(RESOURCES)


def make_app_with(config: Config, more: Sequence[resource.Build], proven: Proven) -> ASGIApp:
    """Return the app, with more resources and what is proven of their queries."""
    parts = resource.Service(config)
    resources = [*build_resources(parts), *(build(parts) for build in more)]
    check_wiring(resources, {**read_written().queries, **proven})
    return make_app(parts, resources)


def problem_of(error: Exception) -> Problem | None:
    """Return the problem that an error of the driver or of the database becomes."""
    return find_problem(translate(error), CONSTRAINTS)


def make_client(url: str, headers: Mapping[str, str] = MappingProxyType({})) -> httpx.Client:
    """A patient client. It loads no certificates, which takes 40 ms and which nothing here has."""
    return httpx.Client(base_url=url, headers=headers, timeout=DEADLINE, verify=False)


class Service:
    """The real service, served by uvicorn on a port of its own, in a thread.

    It may have more resources than the product's; `proven` are the facts of their queries.
    """

    def __init__(self, config: Config, *more: resource.Build, proven: Proven = MappingProxyType({})) -> None:
        self.config = config
        make = partial(make_app_with, config, more, proven)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.server = uvicorn.Server(configure(make))
        self._thread = threading.Thread(target=self.server.run, args=([self._listener],))

    def __enter__(self) -> "Service":
        self._thread.start()
        wait_for(lambda: self._is_warm() or not self._thread.is_alive())
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _is_warm(self) -> bool:
        """Whether its looks at the schema are over: they wait for locks as well, and who counts them counts it."""
        if not self.server.started:
            return False
        tasks = asyncio.all_tasks(self.server.servers[0].get_loop())
        return all(getattr(task.get_coro(), "cr_code", None) is not warm.__code__ for task in tasks)

    def client(self, token: str | None = None) -> httpx.Client:
        """A client that holds a key, or none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return make_client(self.url, headers)


def make_key(config: Config, *scopes: str, name: str = "test") -> str:
    """A new key with these scopes, or all."""

    async def make() -> str:
        database = Database(config)
        try:
            return await create_key(name, list(scopes or SCOPES), None, ApiKeyQueries.bind(database))
        finally:
            await database.close()

    return asyncio.run(make())


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


def make_config(url: str) -> Config:
    """The service's configuration in tests: passwords hashed as cheaply as argon2 can, and much patience.

    A machine may stand still for seconds; a test in which time runs out says so by settings of its own.
    """
    return Config(
        database_url=DatabaseUrl(url),
        hash_memory=8,
        hash_passes=1,
        pool_size=4,
        connect_timeout=DEADLINE,
        acquire_timeout=DEADLINE,
        query_timeout=DEADLINE,
        slow_query_timeout=DEADLINE,
        request_timeout=DEADLINE,
    )


def with_settings(config: Config, **settings: Any) -> Config:
    """The configuration with some settings changed."""
    return msgspec.structs.replace(config, **settings)


CHECKOUT = Path(__file__).parent.parent.parent


class Raw:
    """The connection of a transaction itself, for tests of it: `database.transaction(Raw)`. It sends any text."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    def bind(cls, executor: Any) -> Any:
        """Return the connection."""
        return cls(executor.connection)

    def __getattr__(self, name: str) -> Any:
        plain = getattr(asyncpg.Connection, name, None)
        guarded = name in ("execute", "fetch", "fetchval", "fetchrow", "executemany", "prepare", "cursor")
        return partial(plain, self._connection) if plain and guarded else getattr(self._connection, name)
