"""Connections over networks that are shut or frozen, to servers that end them, on a schema that is another."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from svc.config import Config
from svc.postgres.connection import Connection
from svc.postgres.errors import QueryTimeoutError
from svc.postgres.pool import Database
from svc.postgres.queries import Signature
from svc.postgres.statements import Query
from tests.support import Raw, with_settings
from tests.support.gates import Gate
from tests.support.locks import BACKENDS
from tests.support.loops import on_a_loop
from tests.support.pools import ask, count_usable, find_backends, opened, refuse, sleep, transact
from tests.support.things import ThingQueries, insert

Sql = Callable[..., list[tuple[Any, ...]]]


@on_a_loop
async def test_an_unreachable_server_is_503_until_it_can_be_reached(config: Config) -> None:
    gate = Gate(config.database_url)
    async with gate as url:
        pass
    async with opened(config, database_url=url, pool_size=2, acquire_timeout=1) as database:
        codes = await asyncio.gather(*(refuse(ask(database, "select 1")) for _ in range(20)))
        assert set(codes) == {"database-unavailable"}
        async with gate:
            assert await count_usable(database) == 2


@on_a_loop
async def test_a_frozen_network_costs_each_query_its_time_and_no_more(config: Config) -> None:
    gate = Gate(config.database_url)
    settings = {"pool_size": 2, "query_timeout": 1, "acquire_timeout": 5}
    async with gate as url, opened(config, database_url=url, **settings) as database:
        assert await count_usable(database) == 2
        gate.freeze()
        async with asyncio.timeout(20):
            codes = await asyncio.gather(*(refuse(sleep(database, 0)) for _ in range(4)))
            assert "outcome-unknown" in codes  # it might have been a write
            assert await count_usable(database) == 2


@on_a_loop
async def test_a_write_after_a_transaction_that_began_too_late_is_kept(config: Config, sql: Sql) -> None:
    gate = Gate(config.database_url)
    async with gate as url, opened(config, database_url=url, pool_size=1, query_timeout=1) as database:
        await ask(database, "select 1")
        gate.freeze()
        with pytest.raises(QueryTimeoutError):
            await transact(database, 0)
        gate.thaw()
        number = await insert(database)
        assert sql("select id from things") == [(number,)]


@on_a_loop
async def test_closing_over_a_frozen_network_ends_and_leaves_nothing_open(config: Config) -> None:
    gate = Gate(config.database_url)
    async with gate as url:
        settings = {"pool_size": 10, "acquire_timeout": 0.2}
        database = Database(with_settings(config, database_url=url, **settings))
        assert await count_usable(database) == 10
        gate.freeze()
        async with asyncio.timeout(10):  # what `docker stop` grants
            await database.close()
        await gate.wait_until_left()


@on_a_loop
async def test_a_query_that_the_schema_breaks_is_503_until_a_check_finds_it_mended(
    config: Config, sql: Sql
) -> None:
    sql("alter table things rename column note to remark")
    async with opened(config, ThingQueries.pairs()) as database:
        things = ThingQueries.bind(database)
        assert await refuse(things.get_thing(id=1)) == "schema-mismatch"
        assert await things.delete_thing(id=1, versions=None) == 0
        sql("alter table things rename column remark to note")
        assert await database.check() == []
        assert await things.get_thing(id=1) is None
        sql("alter table things alter column note type varchar(500)")  # under a prepared statement
        assert await things.get_thing(id=1) is None


@on_a_loop
async def test_a_check_looks_at_the_schema_once(
    config: Config, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = Connection.find_mismatch, list[Query]()

    async def note(connection: Connection, query: Query, signature: Signature) -> str | None:
        looks.append(query)
        return await look(connection, query, signature)

    monkeypatch.setattr(Connection, "find_mismatch", note)
    pairs = ThingQueries.pairs()
    async with opened(config, pairs) as database:
        for times in (1, 2):  # the first connection looks; then there is one that has looked before
            assert await database.check() == []
            assert looks == [query for query, _ in pairs] * times


@on_a_loop
async def test_an_older_look_at_the_schema_does_not_overrule_a_newer_one(
    config: Config, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looked, go_on = Connection.find_mismatch, asyncio.Event(), asyncio.Event()

    async def look_slowly(connection: Connection, query: Query, signature: Signature) -> str | None:
        found = await look(connection, query, signature)
        if not looked.is_set():
            looked.set()
            await go_on.wait()
        return found

    pairs = [pair for pair in ThingQueries.pairs() if pair[0].name == "get_thing"]
    sql("alter table things rename column note to remark")
    async with opened(config, pairs) as database:
        assert len(await database.check()) == 1
        monkeypatch.setattr(Connection, "find_mismatch", look_slowly)
        older = asyncio.create_task(database.check())
        await looked.wait()
        sql("alter table things rename column remark to note")
        assert await database.check() == []
        go_on.set()
        assert await older == []
        assert await ThingQueries.bind(database).get_thing(id=1) is None


@on_a_loop
async def test_a_read_that_meets_a_lost_connection_is_run_again_and_a_write_is_not(
    config: Config, sql: Sql
) -> None:
    end = f"select pg_terminate_backend(pid, 5000) {BACKENDS}"
    async with opened(config, pool_size=2) as database:
        await find_backends(database, 2)
        assert sql(end) == [(True,), (True,)]
        assert await ask(database, "select 1") == 1
        await find_backends(database, 2)
        assert sql(end) == [(True,), (True,)]
        assert await refuse(insert(database)) == "database-unavailable"
        assert sql("select count(*) from things") == [(0,)]
        assert await insert(database)


@on_a_loop
async def test_a_connection_that_was_being_opened_expires_with_the_others(config: Config) -> None:
    async with opened(config, pool_size=1) as database:
        opening = sleep(database, 0)
        await asyncio.sleep(0)
        database.expire()
        assert await opening != await sleep(database, 0)


async def fail_outside_the_database(database: Database) -> None:
    """A transaction in which something else fails."""
    async with database.transaction(Raw):
        raise FileNotFoundError


@on_a_loop
async def test_an_error_of_the_callers_own_costs_no_connection(config: Config) -> None:
    async with opened(config, pool_size=2) as database:
        old = await find_backends(database, 2)
        with pytest.raises(FileNotFoundError):
            await fail_outside_the_database(database)
        assert await find_backends(database, 2) == old
