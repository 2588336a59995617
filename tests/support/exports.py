"""What the tests of exports share."""

from collections.abc import Callable
from typing import Any

from tests.support.locks import BACKENDS

Sql = Callable[..., list[tuple[Any, ...]]]

PATH = "/users/export"
FILL = """
    insert into users (email, hashed_password, display_name, is_active, created_at)
    select 'user' || n || '@example.com', 'secret', case when n %% 3 > 0 then 'Name ' || n end, n %% 5 > 0,
        timestamptz '2026-01-01T00:00:00Z' + n * interval '0.5 second'
    from generate_series(1, %s) as n
"""


def find_exports(sql: Sql) -> list[int]:
    """Return the server processes that have an export's transaction open."""
    return [pid for (pid,) in sql(f"select pid {BACKENDS} and xact_start is not null")]
