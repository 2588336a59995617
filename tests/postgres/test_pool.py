"""Connections: how many, who gets one, and what is left after timeouts, cancellation and lost servers."""

import asyncio
import gc
import random
import re
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from svc.config import Config, find_folder
from svc.postgres.errors import DatabaseError, InvalidValueError
from svc.postgres.pool import Database
from svc.postgres.statements import load
from tests.support import Raw, with_settings
from tests.support.locks import BACKENDS, count_backends, count_blocked, holding
from tests.support.loops import on_a_loop, take_turns
from tests.support.pools import (
    ask,
    count_usable,
    find_backends,
    make_query,
    opened,
    refuse,
    sleep,
    transact,
    wait_for_lock,
)
from tests.support.things import FILE, FILL, CreateThing, ThingQueries, insert, insert_in_transaction
from tests.support.waiting import until

Sql = Callable[..., list[tuple[Any, ...]]]


@on_a_loop
async def test_connections_open_when_needed_and_no_more_than_that(config: Config, sql: Sql) -> None:
    async with opened(config, pool_size=3) as database:
        assert count_backends(sql) == 0
        await ask(database, "select 1")
        assert count_backends(sql) == 1
        with holding(config, "select pg_advisory_xact_lock(1)"):
            tasks = [wait_for_lock(database, 1) for _ in range(60)]
            await until(lambda: count_blocked(sql) == 3)
            await take_turns()
            assert count_backends(sql) == 3
        assert len(set(await asyncio.gather(*tasks))) == 3
        assert count_backends(sql) == 3
    await until(lambda: count_backends(sql) == 0)


@on_a_loop
async def test_close_ends_idle_connections_now_and_others_later(config: Config, sql: Sql) -> None:
    database = Database(with_settings(config, pool_size=3))
    await find_backends(database, 3)
    async with database.transaction(Raw) as connection:
        await database.close()
        await until(lambda: count_backends(sql) == 1)
        assert await connection.fetchval("select 1") == 1
    await until(lambda: count_backends(sql) == 0)


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
            await take_turns()
            assert not last.done()
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
        await until(lambda: count_backends(sql) == 3)


@on_a_loop
async def test_cancellation_while_a_connection_opens_leaves_none_behind(config: Config, sql: Sql) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for milliseconds in range(0, 30, 2):
            async with opened(config, ThingQueries.pairs(), pool_size=1) as database:
                task = sleep(database, 0)
                await asyncio.wait([task], timeout=milliseconds / 1000)
                task.cancel()
                await asyncio.wait([task])
        del task
        gc.collect()
    await until(lambda: count_backends(sql) == 0)
    assert [str(warning.message) for warning in caught] == []


@on_a_loop
async def test_a_query_out_of_time_ends_and_its_connection_stays_usable(config: Config, sql: Sql) -> None:
    async with opened(config, pool_size=2, query_timeout=0.5) as database:
        for _ in range(3):
            codes = await asyncio.gather(*(refuse(sleep(database, 60)) for _ in range(2)))
            assert set(codes) == {"outcome-unknown"}  # it might have been a write
        assert await count_usable(database) == 2
        await until(lambda: sql(f"select pid {BACKENDS} and state = 'active'") == [])


@on_a_loop
async def test_connections_that_the_server_ends_are_replaced(config: Config, sql: Sql) -> None:
    async with opened(config, pool_size=3) as database:
        for _ in range(3):
            old = await find_backends(database, 3)
            running = sleep(database, 60)
            await until(lambda: sql(f"select pid {BACKENDS} and state = 'active'") != [])
            sql(f"select pg_terminate_backend(pid) {BACKENDS}")
            assert await refuse(running) == "database-unavailable"
            await until(lambda: count_backends(sql) == 0)
            new = await find_backends(database, 3)
            assert (len(old), len(new), old & new) == (3, 3, set())


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
        assert sql("select id from things") == [(number,)]


@on_a_loop
async def test_a_snapshot_begins_where_it_is_asked_for(config: Config, sql: Sql) -> None:
    """Not with a statement that was prepared before and could not be run."""
    async with opened(config, pool_size=1) as database:
        with pytest.raises(InvalidValueError):
            await ask(database, "select id from things where id = $1", "no number")
        sql(FILL, 2)
        async with database.transaction(Raw, snapshot=True) as connection:
            assert await connection.fetch_one(make_query("select name from things"), []) is not None
            sql("delete from things")
            assert await connection.fetch_one(make_query("select name from things"), []) is not None
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await insert(connection)
        assert await connection.fetch_one(make_query("select name from things"), []) is None


@pytest.mark.parametrize("cache", [0, 200])
@on_a_loop
async def test_a_value_that_is_refused_unsent_leaves_no_lock_behind(
    config: Config, sql: Sql, cache: int
) -> None:
    """PostgreSQL takes the locks of a statement when it parses it, before it has the values."""
    held = "select mode from pg_locks where relation = 'things'::regclass"
    async with opened(config, pool_size=1, statement_cache=cache) as database:
        things = ThingQueries.bind(database)
        for refused in (
            things.create_thing(new=CreateThing("x", size=2**31)),
            things.get_things(ids=[1, 2**63]),
            things.delete_thing(id=2**63, versions=None),
        ):
            with pytest.raises(InvalidValueError):
                await refused
            assert sql(held) == []


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


@pytest.mark.parametrize("file", [FILE, *sorted(path.name for path in find_folder("queries").glob("*.sql"))])
@on_a_loop
async def test_no_query_leaves_anything_behind_in_its_session(config: Config, file: str) -> None:
    async with opened(config, pool_size=1) as database:
        before = await database.fetch_all(make_query(SESSION), ())
        for each in load(file).values():
            with suppress(asyncpg.PostgresError, DatabaseError):  # what null is no good for
                await database.fetch_all(each, [None for _ in each.parameters])
            assert await database.fetch_all(make_query(SESSION), ()) == before, each
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
