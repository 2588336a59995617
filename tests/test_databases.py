"""Databases that tests borrow: each comes as if it were new."""

from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from svc.config import DatabaseUrl
from tests.support.databases import Databases

ADD = "insert into users (email, hashed_password) select n || '@example.com', '' from generate_series(1, %s) as n"
IDS = "select id from users"


@pytest.fixture
def lent(server_url: DatabaseUrl, admin: Callable[[str], None], template: str) -> Iterator[Databases]:
    """Databases that no other test has had."""
    with closing(Databases(server_url, admin, template)) as databases:
        yield databases


def run(url: str, statement: str, *arguments: int) -> list[tuple[int]]:
    """Run a statement, and leave the connection open where it fails."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), arguments or None)
        return cursor.fetchall() if cursor.description else []


def test_one_with_a_few_rows_and_a_forgotten_connection_is_lent_again_as_new(lent: Databases) -> None:
    with lent.lend() as first:
        run(first, ADD, 3)
        forgotten = psycopg.connect(first)
        forgotten.execute("select pg_advisory_lock(1)")
    with lent.lend() as second:
        assert second == first
        assert run(second, IDS) == []
        run(second, ADD, 1)
        assert run(second, IDS) == [(1,)]
        assert run(second, "select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]
    forgotten.close()


@pytest.mark.parametrize(
    "statement",
    [
        "create index on users (display_name)",
        "alter table users rename to people; alter table people rename to users",
        "comment on column users.email is 'new'",
        "do 'begin execute format($$alter database %I set work_mem to 64$$, current_database()); end'",
        "drop table migration_checksums",
        "drop table idempotency_keys",
        "update migration_checksums set checksum = 'x'",
        "delete from migration_checksums where migration_id in (select max(migration_id) from migration_checksums)",
        ADD.replace("%s", "20000"),
    ],
)
def test_one_that_is_not_what_it_was_is_not_lent_again(lent: Databases, statement: str) -> None:
    with lent.lend() as first:
        run(first, statement)
    with lent.lend() as second:
        assert second != first
