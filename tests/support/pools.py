"""Pools of connections, and queries that are in no file."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cache
from typing import Any

import asyncpg
import msgspec
import pytest

from svc.config import Config
from svc.postgres.errors import DatabaseError
from svc.postgres.pool import Database
from svc.postgres.queries import Signature
from svc.postgres.statements import TEXTS, Query, load
from tests.support import Raw, problem_of, with_settings

DATABASE_ERRORS = (DatabaseError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""Whatever a query may end in where the database is in trouble."""


@asynccontextmanager
async def opened(
    config: Config, pairs: Sequence[tuple[Query, Signature]] = (), **settings: Any
) -> AsyncGenerator[Database]:
    """Give a database that is closed at the end."""
    database = Database(with_settings(config, **settings), pairs)
    try:
        yield database
    finally:
        await database.close()


@cache
def make_query(sql: str) -> Query:
    """Return a query that is in no file of ours; one that takes its time is not to be run twice."""
    reads = "pg_sleep" not in sql and "insert" not in sql
    query = msgspec.structs.replace(load("analysis.sql")["list_functions"], sql=sql, reads=reads)
    TEXTS[query] = sql
    return query


async def ask(database: Database, sql: str, *arguments: object) -> Any:
    """Return the only value of a statement's only row."""
    ((value,),) = await database.fetch_all(make_query(sql), arguments)
    return value


def sleep(database: Database, seconds: float) -> "asyncio.Task[int]":
    """Start a query that takes its time on a connection and gives its backend's number."""
    return asyncio.create_task(ask(database, "select pg_backend_pid() from pg_sleep($1)", seconds))


def wait_for_lock(database: Database, number: int) -> "asyncio.Task[int]":
    """Start a query that waits for an advisory lock and gives its backend's number."""
    wait = "select pg_backend_pid() from pg_advisory_xact_lock($1)"
    return asyncio.create_task(ask(database, wait, number))


async def transact(database: Database, seconds: float) -> None:
    """Run a transaction with a query that takes its time."""
    async with database.transaction(Raw) as connection:
        await connection.fetchval("select 1 from pg_sleep($1)", seconds)


async def find_backends(database: Database, number: int) -> set[int]:
    """Return the backends of so many transactions at the same time."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(database.transaction(Raw)) for _ in range(number)]
        return {await connection.fetchval("select pg_backend_pid()") for connection in connections}


async def count_usable(database: Database) -> int:
    """Return how many connections can be out at the same time, each of them working.

    Each that there should be may take its time; one more than that has none to wait for.
    """
    count, config = 0, database.config
    try:
        async with AsyncExitStack() as stack:
            with suppress(*DATABASE_ERRORS):
                while True:
                    if count >= config.pool_size:
                        database.config = with_settings(config, acquire_timeout=0.01)
                    connection = await stack.enter_async_context(database.transaction(Raw))
                    count += await connection.fetchval("select 1")
    finally:
        database.config = config
    return count


async def refuse(query: Awaitable[object]) -> str | None:
    """Return the code of the 503 that a query ends in."""
    with pytest.raises(DATABASE_ERRORS) as caught:
        await query
    problem = problem_of(caught.value)
    assert problem, repr(caught.value)
    assert (problem.status, *problem.headers) == (503, "Retry-After")
    return problem.code
