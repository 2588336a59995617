"""Locks of somebody else, and who waits for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from svc.config import Config

Sql = Callable[..., list[tuple[Any, ...]]]

BACKENDS = "from pg_stat_activity where application_name = 'bareline' and datname = current_database()"
"""The connections that the service has to this database."""

BLOCKED = f"{BACKENDS} and wait_event_type = 'Lock'"
"""Those of them that wait for a lock."""


@contextmanager
def holding(config: Config, statement: str) -> "Iterator[psycopg.Connection]":
    """Give a connection of somebody else, who has done this and not committed yet."""
    with psycopg.connect(str(config.database_url)) as connection:
        connection.execute(statement.encode())
        yield connection
        connection.rollback()


def count_backends(sql: Sql) -> int:
    """Return how many connections the server has from us."""
    return int(sql(f"select count(*) {BACKENDS}")[0][0])


def count_blocked(sql: Sql) -> int:
    """Return how many of them wait for a lock."""
    return int(sql(f"select count(*) {BLOCKED}")[0][0])
