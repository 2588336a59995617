"""Connections: how many, who gets one, and what is left after timeouts, cancellation and lost servers."""

import asyncio
import gc
import random
import re
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import wraps
from typing import Any

import asyncpg
import msgspec
import pytest

from svc.config import Config, find_folder
from svc.postgres.connection import Connection
from svc.postgres.errors import DatabaseError, InvalidValueError
from svc.postgres.pool import Database
from svc.postgres.statements import Query, load
from tests.support import QUERIES, Raw, problem_of, with_settings

Sql = Callable[..., list[tuple[Any, ...]]]

PAIRS = [pair for queries in QUERIES for pair in queries.pairs()]
OURS = "from pg_stat_activity where application_name = 'bareline' and datname = current_database()"
DATABASE_ERRORS = (DatabaseError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


@asynccontextmanager
async def opened(config: Config, pairs: Any = (), **settings: Any) -> AsyncGenerator[Database]:
    """A database that is closed at the end."""
    database = Database(with_settings(config, **settings), pairs)
    try:
        yield database
    finally:
        await database.close()


def query(sql: str) -> Query:
    """A query that is in no file; a long one is not to be run twice."""
    reads = "pg_sleep" not in sql and "insert" not in sql
    return msgspec.structs.replace(load("health.sql")["get_writability"], sql=sql, reads=reads)


async def ask(database: Database, sql: str, *arguments: object) -> Any:
    """The only value of a statement's only row."""
    ((value,),) = await database.fetch_all(query(sql), arguments)
    return value


def sleep(database: Database, seconds: float) -> "asyncio.Task[int]":
    """A query that takes its time on a connection and gives its backend's number."""
    return asyncio.create_task(ask(database, "select pg_backend_pid() from pg_sleep($1)", seconds))


async def transact(database: Database, seconds: float) -> None:
    """A transaction with a query that takes its time."""
    async with database.transaction(Raw) as connection:
        await connection.fetchval("select 1 from pg_sleep($1)", seconds)


async def find_backends(database: Database, number: int) -> set[int]:
    """The backends of so many queries at the same time."""
    return set(await asyncio.gather(*(sleep(database, 0.05) for _ in range(number))))


async def count_usable(database: Database) -> int:
    """How many connections can be out at the same time, each of them working."""
    count = 0
    async with AsyncExitStack() as stack:
        with suppress(*DATABASE_ERRORS):
            while True:
                connection = await stack.enter_async_context(database.transaction(Raw))
                count += await connection.fetchval("select 1")
    return count


def count(sql: Sql) -> int:
    """How many connections the server has from us."""
    return int(sql(f"select count(*) {OURS}")[0][0])


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that the server does by itself."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.01)


async def refuse(query: Awaitable[object]) -> str | None:
    """The code of the 503 that a query ends in."""
    with pytest.raises(DATABASE_ERRORS) as caught:
        await query
    problem = problem_of(caught.value)
    assert problem, repr(caught.value)
    assert (problem.status, *problem.headers) == (503, "Retry-After")
    return problem.code


@on_a_loop
async def test_connections_open_when_needed_and_no_more_than_that(config: Config, sql: Sql) -> None:
    async with opened(config, pool_size=3) as database:
        assert count(sql) == 0
        await ask(database, "select 1")
        assert count(sql) == 1
        tasks = [sleep(database, 0.01) for _ in range(60)]
        counts = set()
        while not all(task.done() for task in tasks):
            counts.add(count(sql))
            await asyncio.sleep(0)
        assert max(counts) == 3
        assert len({task.result() for task in tasks}) == 3
    await until(lambda: count(sql) == 0)


@on_a_loop
async def test_close_ends_idle_connections_now_and_others_later(config: Config, sql: Sql) -> None:
    database = Database(with_settings(config, pool_size=3))
    await find_backends(database, 3)
    async with database.transaction(Raw) as connection:
        await database.close()
        await until(lambda: count(sql) == 1)
        assert await connection.fetchval("select 1") == 1
    await until(lambda: count(sql) == 0)


@pytest.mark.parametrize("settings", [{"pool_size": 1}, {"pool_size": 4}, {"statement_cache": 0}])
@on_a_loop
async def test_concurrent_queries_all_get_their_own_answer(config: Config, settings: dict[str, int]) -> None:
    async with opened(config, **settings) as database:
        answers = await asyncio.gather(*(ask(database, "select $1::int", n) for n in range(200)))
    assert answers == list(range(200))


@on_a_loop
async def test_a_wait_for_a_connection_ends_in_503(config: Config) -> None:
    async with opened(config, pool_size=1, acquire_timeout=0.1) as database:
        async with database.transaction(Raw):
            assert await refuse(ask(database, "select 1")) == "overload"
        assert await count_usable(database) == 1


@on_a_loop
async def test_a_full_queue_refuses_at_once_and_holds_only_those_who_still_wait(config: Config) -> None:
    async with opened(config, pool_size=1, queue_size=2, acquire_timeout=60) as database:
        async with database.transaction(Raw):
            waiting = [sleep(database, 0) for _ in range(2)]
            await asyncio.sleep(0)
            assert await refuse(sleep(database, 0)) == "overload"
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            last = sleep(database, 0)
            await asyncio.wait([last], timeout=0.05)
        assert await last  # nobody else waited any more, so there was room


@pytest.mark.parametrize("work", [sleep, transact])
@on_a_loop
async def test_cancellation_at_any_point_loses_no_connection(
    config: Config, sql: Sql, work: Callable[[Database, float], Awaitable[Any]]
) -> None:
    dice = random.Random(7)
    async with opened(config, pool_size=3, acquire_timeout=0.5) as database:
        for _ in range(150):
            tasks = [asyncio.ensure_future(work(database, dice.random() / 500)) for _ in range(9)]
            for task in dice.sample(tasks, 6):
                await asyncio.sleep(dice.choice([0, 0, 0.0005]))
                task.cancel()
                if dice.random() < 0.3:
                    await asyncio.sleep(0)
                    task.cancel()  # once more, on its way out
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await count_usable(database) == 3
        assert count(sql) == 3


@on_a_loop
async def test_cancellation_while_a_connection_opens_leaves_none_behind(config: Config, sql: Sql) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for milliseconds in range(0, 30, 2):
            async with opened(config, PAIRS, pool_size=1) as database:
                task = sleep(database, 0)
                await asyncio.wait([task], timeout=milliseconds / 1000)
                task.cancel()
                await asyncio.wait([task])
        del task
        gc.collect()
    await until(lambda: count(sql) == 0)
    assert [str(warning.message) for warning in caught] == []


@on_a_loop
async def test_a_query_out_of_time_ends_and_its_connection_stays_usable(config: Config, sql: Sql) -> None:
    async with opened(config, pool_size=2, query_timeout=0.1, acquire_timeout=1) as database:
        for _ in range(3):
            codes = await asyncio.gather(*(refuse(sleep(database, 60)) for _ in range(2)))
            assert set(codes) == {"outcome-unknown"}  # it might have been a write
        assert await count_usable(database) == 2
        assert sql(f"select pid {OURS} and state = 'active'") == []


@on_a_loop
async def test_connections_that_the_server_ends_are_replaced(config: Config, sql: Sql) -> None:
    async with opened(config, pool_size=3) as database:
        for _ in range(3):
            old = await find_backends(database, 3)
            running = sleep(database, 60)
            await until(lambda: sql(f"select pid {OURS} and state = 'active'") != [])
            sql(f"select pg_terminate_backend(pid) {OURS}")
            assert await refuse(running) == "database-unavailable"
            await until(lambda: count(sql) == 0)
            new = await find_backends(database, 3)
            assert (len(old), len(new), old & new) == (3, 3, set())


async def insert(executor: Database | Connection) -> int:
    """A write."""
    change = "insert into api_keys (name, key_hash, scopes) values ('a', '', '{}') returning id"
    ((number,),) = await executor.fetch_all(query(change), ())
    return int(number)


async def insert_in_transaction(database: Database) -> int:
    """A write inside a transaction."""
    async with database.transaction(Raw) as connection:
        return await insert(connection)


@pytest.mark.parametrize("write", [insert, insert_in_transaction])
@on_a_loop
async def test_a_write_after_a_cancelled_transaction_is_kept(
    config: Config, sql: Sql, write: Callable[[Database], Awaitable[int]]
) -> None:
    async with opened(config, pool_size=1) as database:
        await ask(database, "select 1")
        cancelled = asyncio.create_task(transact(database, 0))
        await asyncio.sleep(0)  # it sends its `begin`
        cancelled.cancel()
        await asyncio.wait([cancelled])
        number = await write(database)
        assert sql("select id from api_keys") == [(number,)]


@on_a_loop
async def test_a_snapshot_begins_where_it_is_asked_for(config: Config, sql: Sql) -> None:
    """Not with a statement that was prepared before and could not be run."""
    async with opened(config, pool_size=1) as database:
        with pytest.raises(InvalidValueError):
            await ask(database, "select id from users where id = $1", "no number")
        sql("insert into users (email, hashed_password) values ('a@b.de', 'x')")
        async with database.transaction(Raw, snapshot=True) as connection:
            assert await connection.fetch_one(query("select email from users"), []) is not None
            sql("delete from users")
            assert await connection.fetch_one(query("select email from users"), []) is not None
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await insert(connection)
        assert await connection.fetch_one(query("select email from users"), []) is None


@pytest.mark.parametrize("write", [insert, insert_in_transaction])
@on_a_loop
async def test_a_server_that_takes_no_writes_loses_all_its_connections(
    config: Config, sql: Sql, write: Callable[[Database], Awaitable[int]]
) -> None:
    name = sql("select current_database()")[0][0]
    async with opened(config, pool_size=3) as database:
        sql(f"alter database {name} set default_transaction_read_only = on")
        old = await find_backends(database, 3)
        sql(f"alter database {name} set default_transaction_read_only = off")
        busy = sleep(database, 0.2)
        assert await refuse(write(database)) == "read-only"
        assert await busy in old
        assert await find_backends(database, 3) & old == set()
        assert await write(database)


SESSION = """
select (select array_agg((name, setting)::text order by name) from pg_settings)::text,
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
    (select count(*) from pg_listening_channels()), (select count(*) from pg_cursors), current_user::text,
    (select count(*) from pg_class where relpersistence = 't')
"""


@pytest.mark.parametrize("file", sorted(path.name for path in find_folder("queries").glob("*.sql")))
@on_a_loop
async def test_no_query_leaves_anything_behind_in_its_session(config: Config, file: str) -> None:
    async with opened(config, pool_size=1) as database:
        before = await database.fetch_all(query(SESSION), ())
        for each in load(file).values():
            with suppress(asyncpg.PostgresError, DatabaseError):  # what null is no good for
                await database.fetch_all(each, [None for _ in each.parameters])
            assert await database.fetch_all(query(SESSION), ()) == before, each
            assert not re.match("(?i)set (?!local)|listen|load|discard|declare|prepare", each.sql), each
            assert not re.search(r"(?i)set_config\((?!.*, true\))|advisory_(un)?lock", each.sql), each


@pytest.mark.parametrize(("cache", "kept"), [(0, False), (200, True)])
@on_a_loop
async def test_without_a_statement_cache_nothing_stays_prepared(
    config: Config, cache: int, kept: bool
) -> None:
    async with opened(config, pool_size=1, statement_cache=cache) as database:
        for _ in range(2):
            await ask(database, "select 1")
        found = await ask(
            database, "select count(*) from pg_prepared_statements where statement = 'select 1'"
        )
    assert (found > 0) is kept
