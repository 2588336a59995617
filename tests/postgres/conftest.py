"""A database with the table of things in it."""

import pytest

from svc.config import DatabaseUrl
from tests.support.things import make_table


@pytest.fixture
def database_url(database_url: DatabaseUrl) -> DatabaseUrl:
    """A migrated database of this test's own, with an empty table of things."""
    make_table(database_url)
    return database_url
