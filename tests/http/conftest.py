"""The service with the resource of things beside the product's, on a database that has their table."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from svc.config import Config
from svc.database_url import DatabaseUrl
from tests.support import Service
from tests.support.databases import Databases
from tests.support.raw import Ground
from tests.support.things import make_key, make_table, serve_things


@pytest.fixture(scope="session")
def databases(server_url: DatabaseUrl, admin: Callable[[str], None], template: str) -> Databases:
    """Migrated databases with an empty table of things."""
    return Databases(server_url, admin, template, make_table)


@pytest.fixture
def service(config: Config) -> Iterator[Service]:
    """The service on this test's database."""
    with serve_things(config) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """A client that may do everything with things."""
    with service.client(make_key(service.config)) as client:
        yield client


@pytest.fixture
def things(client: httpx.Client) -> list[dict[str, Any]]:
    """Three things, as their creation answered them: a query that forgets its `where` shows."""
    return [
        client.post("/things", json={"name": name.lower(), "note": name}).raise_for_status().json()
        for name in ("Ada", "Bob", "Cyd")
    ]


@pytest.fixture(scope="module")
def ground(databases: Databases) -> Iterator[Ground]:
    """The ground that all tests of a module stand on: nine things, and keys for them."""
    with databases.lend() as url:
        yield Ground(url, "things")
