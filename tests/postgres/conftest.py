"""A database with the table of things in it."""

from collections.abc import Callable

import pytest

from svc.database_url import DatabaseUrl
from tests.support.databases import Databases
from tests.support.things import make_table


@pytest.fixture(scope="session")
def databases(server_url: DatabaseUrl, admin: Callable[[str], None], template: str) -> Databases:
    """Migrated databases with an empty table of things."""
    return Databases(server_url, admin, template, make_table)
