"""Transactions: what is bound to one sees its rows, others do not until it ends, and what fails is taken back."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from svc.config import Config
from svc.postgres import queries as query_module
from svc.postgres.errors import (
    ConflictError,
    ConstraintError,
    InvalidValueError,
    OutcomeUnknownError,
    OverloadedError,
    QueryTimeoutError,
    ReadOnlyError,
    UnreachableError,
)
from svc.postgres.pool import Database, Savepoints
from svc.postgres.queries import Queries, read_signature
from tests.support.gates import LossyGate
from tests.support.locks import BACKENDS, count_blocked, holding
from tests.support.loops import on_a_loop
from tests.support.pools import count_usable, find_backends, opened
from tests.support.things import FILL, CreateThing, ThingQueries
from tests.support.waiting import until

Sql = Callable[..., list[tuple[Any, ...]]]

NAMES = "select array_agg(name order by name) from things"
IN_TRANSACTION = f"select pid {BACKENDS} and xact_start is not null"
END_ALL = f"select pg_terminate_backend(pid, 5000) {BACKENDS}"
COUNTS = str(Path(__file__).with_name("thing_counts.sql"))


class ThingCounts(Queries, Protocol, file=COUNTS):
    """tests/postgres/thing_counts.sql"""

    async def count_things(self) -> int: ...
    async def get_last_name(self) -> str | None: ...


async def create(things: ThingQueries, *names: str, size: int = 1) -> None:
    """Make things of these names."""
    for name in names:
        await things.create_thing(new=CreateThing(name, size=size))


@on_a_loop
async def test_what_is_bound_to_one_transaction_sees_its_rows_and_others_do_not_until_the_commit(
    config: Config, sql: Sql
) -> None:
    sql(FILL, 2)
    async with opened(config, pool_size=2) as database:
        outside = ThingCounts.bind(database)
        async with database.transaction(ThingQueries, ThingCounts) as (things, counts):
            await create(things, "x", "y")
            assert (await counts.count_things(), await counts.get_last_name()) == (4, "y")
            assert (await outside.count_things(), await outside.get_last_name()) == (2, "thing 2")
        assert (await outside.count_things(), await outside.get_last_name()) == (4, "y")


@on_a_loop
async def test_one_class_gives_one_object_and_several_give_them_in_order(config: Config) -> None:
    async with opened(config, pool_size=1) as database:
        async with database.transaction(ThingCounts) as counts:
            assert await counts.count_things() == 0
        async with database.transaction(ThingQueries, Savepoints, ThingCounts) as bound:
            things, savepoints, counts = bound
            assert isinstance(savepoints, Savepoints)
            await create(things, "x", "y")
            assert await counts.count_things() == 2


@on_a_loop
async def test_two_transactions_at_once_are_on_connections_of_their_own(config: Config, sql: Sql) -> None:
    async with (
        opened(config, pool_size=2) as database,
        database.transaction(ThingQueries, ThingCounts) as (things, counts),
        database.transaction(ThingQueries, ThingCounts) as (others, other_counts),
    ):
        await create(things, "x", "y")
        await create(others, "z")
        assert (await counts.count_things(), await other_counts.count_things()) == (2, 1)
    assert sql(NAMES) == [(["x", "y", "z"],)]


async def change_and_raise(database: Database) -> None:
    """Make things and remove one; then raise what is no error of the database."""
    async with database.transaction(ThingQueries) as things:
        await create(things, "x", "y")
        assert await things.delete_thing(id=1, versions=None) == 1
        raise KeyError("the caller's own")


@on_a_loop
async def test_an_exception_takes_everything_back_and_the_connection_is_used_again(
    config: Config, sql: Sql
) -> None:
    sql(FILL, 2)
    async with opened(config, pool_size=1) as database:
        old = await find_backends(database, 1)
        with pytest.raises(KeyError, match="own"):
            await change_and_raise(database)
        assert sql(NAMES) == [(["thing 1", "thing 2"],)]
        assert await find_backends(database, 1) == old


async def create_and_delete(database: Database) -> None:
    """Make a thing and remove another, which may be locked."""
    async with database.transaction(ThingQueries) as things:
        await create(things, "x")
        await things.delete_thing(id=2, versions=None)


@on_a_loop
async def test_cancellation_while_a_statement_waits_takes_everything_back(config: Config, sql: Sql) -> None:
    sql(FILL, 2)

    async with opened(config, pool_size=1) as database:
        with holding(config, "select from things where id = 2 for update"):
            task = asyncio.create_task(create_and_delete(database))
            await until(lambda: count_blocked(sql) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: sql(IN_TRANSACTION) == [])
        assert sql(NAMES) == [(["thing 1", "thing 2"],)]
        assert await count_usable(database) == 1


@on_a_loop
async def test_cancellation_between_statements_takes_everything_back(config: Config, sql: Sql) -> None:
    created, never = asyncio.Event(), asyncio.Event()

    async def change(database: Database) -> None:
        async with database.transaction(ThingQueries) as things:
            await create(things, "x", "y")
            created.set()
            await never.wait()

    async with opened(config, pool_size=1) as database:
        task = asyncio.create_task(change(database))
        await created.wait()
        assert len(sql(IN_TRANSACTION)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: sql(IN_TRANSACTION) == [])
        assert sql("select count(*) from things") == [(0,)]
        assert await count_usable(database) == 1


async def create_and_raise(things: ThingQueries, savepoints: Savepoints) -> None:
    """Make a thing in a part of the transaction that fails."""
    async with savepoints.begin():
        await create(things, "deep inside")
        raise KeyError


@on_a_loop
async def test_a_savepoint_takes_back_its_own_part_only(config: Config, sql: Sql) -> None:
    sql(FILL, 1)
    async with opened(config, pool_size=1) as database:
        async with database.transaction(ThingQueries, Savepoints) as (things, savepoints):
            await create(things, "before")
            with pytest.raises(ConstraintError, match="things_name_key"):
                async with savepoints.begin():
                    await create(things, "inside", "thing 1")
            async with savepoints.begin():
                await create(things, "kept")
                with pytest.raises(KeyError):
                    await create_and_raise(things, savepoints)
            await create(things, "inside again", "after")
        assert sql(NAMES) == [(["after", "before", "inside again", "kept", "thing 1"],)]


@on_a_loop
async def test_what_savepoints_kept_goes_with_the_transaction(config: Config, sql: Sql) -> None:
    async def work(database: Database) -> None:
        async with database.transaction(ThingQueries, Savepoints) as (things, savepoints):
            async with savepoints.begin():
                await create(things, "x", "y")
            raise KeyError

    async with opened(config, pool_size=1) as database:
        with pytest.raises(KeyError):
            await work(database)
        assert sql("select count(*) from things") == [(0,)]


@on_a_loop
async def test_savepoints_are_of_a_transaction(config: Config) -> None:
    async with opened(config) as database:
        with pytest.raises(TypeError):
            Savepoints.bind(database)


@on_a_loop
async def test_a_snapshot_reads_one_moment_and_writes_nothing(config: Config, sql: Sql) -> None:
    sql(FILL, 2)
    async with opened(config, pool_size=2) as database:
        async with database.transaction(ThingQueries, ThingCounts, snapshot=True) as (things, counts):
            assert await counts.count_things() == 2
            sql("insert into things (name) values ('x')")
            sql("update things set note = 'new'")
            sql("delete from things where id = 1")
            assert (await counts.count_things(), await counts.get_last_name()) == (2, "thing 2")
            found = await things.get_things(ids=[1, 2, 3])
            assert sorted((thing.id, thing.note) for thing in found) == [(1, "1"), (2, "2")]
            assert await ThingCounts.bind(database).get_last_name() == "x"
        async with database.transaction(ThingCounts, snapshot=True) as counts:
            assert (await counts.count_things(), await counts.get_last_name()) == (2, "x")
        with pytest.raises(ReadOnlyError):
            async with database.transaction(ThingQueries, snapshot=True) as things:
                await create(things, "y")
        assert sql(NAMES) == [(["thing 2", "x"],)]


@on_a_loop
async def test_without_a_snapshot_each_statement_reads_what_is_committed(config: Config, sql: Sql) -> None:
    sql(FILL, 2)
    async with opened(config, pool_size=1) as database, database.transaction(ThingCounts) as counts:
        assert await counts.count_things() == 2
        sql("insert into things (name) values ('x')")
        assert await counts.count_things() == 3


REFUSE = """create function refuse() returns trigger language plpgsql as $$ begin
    raise exception using errcode = '{}', message = 'no'; end $$;
create trigger refused before insert on things for each row when (new.name = 'refused') execute function refuse()"""


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("40001", ConflictError),
        ("40P01", ConflictError),
        ("55P03", ConflictError),
        ("22003", InvalidValueError),
        ("57014", QueryTimeoutError),
        ("25006", ReadOnlyError),
        ("53200", UnreachableError),
    ],
)
@on_a_loop
async def test_an_error_inside_comes_out_as_the_packages_own(
    config: Config, sql: Sql, sqlstate: str, expected: type[Exception]
) -> None:
    sql(REFUSE.format(sqlstate))
    inside: list[type[Exception]] = []

    async def work(database: Database) -> None:
        async with database.transaction(ThingQueries) as things:
            await create(things, "x")
            try:
                await create(things, "refused")
            except Exception as error:
                inside.append(type(error))
                raise

    async with opened(config, pool_size=1) as database:
        with pytest.raises(expected):
            await work(database)
        assert inside == [expected]
        assert sql("select count(*) from things") == [(0,)]
        assert await count_usable(database) == 1


@pytest.mark.parametrize(
    ("name", "size", "constraint"),
    [("thing 1", 1, "things_name_key"), ("x", 0, "things_size_is_positive")],
)
@on_a_loop
async def test_a_broken_constraint_comes_out_by_its_name(
    config: Config, sql: Sql, name: str, size: int, constraint: str
) -> None:
    sql(FILL, 2)
    async with opened(config, pool_size=1) as database:
        with pytest.raises(ConstraintError) as caught:
            async with database.transaction(ThingQueries) as things:
                await create(things, "before", name, size=size)
        assert caught.value.name == constraint
        assert sql(NAMES) == [(["thing 1", "thing 2"],)]


@on_a_loop
async def test_a_constraint_that_the_commit_finds_broken_comes_out_by_its_name(
    config: Config, sql: Sql
) -> None:
    sql("alter table things alter constraint things_parent_fkey deferrable initially deferred")
    async with opened(config, pool_size=1) as database:
        with pytest.raises(ConstraintError, match="things_parent_fkey"):
            async with database.transaction(ThingQueries) as things:
                await things.create_thing(new=CreateThing("x", parent=99))
        assert sql("select count(*) from things") == [(0,)]
        assert await count_usable(database) == 1


@on_a_loop
async def test_a_statement_out_of_time_comes_out_as_a_timeout_and_takes_everything_back(
    config: Config, sql: Sql
) -> None:
    sql(FILL, 2)
    async with opened(config, pool_size=1, query_timeout=1) as database:
        with holding(config, "select from things where id = 2 for update"), pytest.raises(QueryTimeoutError):
            await create_and_delete(database)
        await until(lambda: sql(IN_TRANSACTION) == [])
        assert sql(NAMES) == [(["thing 1", "thing 2"],)]
        assert await count_usable(database) == 1


@on_a_loop
async def test_a_connection_that_is_lost_inside_comes_out_as_unreachable(config: Config, sql: Sql) -> None:
    sql(FILL, 2)

    async def work(database: Database) -> None:
        async with database.transaction(ThingQueries, ThingCounts) as (things, counts):
            await create(things, "x")
            sql(END_ALL)
            await counts.count_things()

    async with opened(config, pool_size=1) as database:
        with pytest.raises(UnreachableError):
            await work(database)
        assert sql(NAMES) == [(["thing 1", "thing 2"],)]
        assert await count_usable(database) == 1


@on_a_loop
async def test_where_no_connection_comes_free_nothing_is_begun(config: Config, sql: Sql) -> None:
    async with opened(config, pool_size=1, acquire_timeout=0.1) as database:
        async with database.transaction(ThingCounts):
            with pytest.raises(OverloadedError):
                await change_and_raise(database)
        assert sql("select count(*) from things") == [(0,)]
        assert await count_usable(database) == 1


@pytest.mark.parametrize("cut", [True, False])
@on_a_loop
async def test_a_commit_that_was_made_unheard_says_that_it_may_have_been(
    config: Config, sql: Sql, cut: bool
) -> None:
    gate = LossyGate(config.database_url)

    async def change(database: Database) -> None:
        async with database.transaction(ThingQueries) as things:
            await create(things, "x", "y")
            gate.mute()

    async with gate as url, opened(config, database_url=url, pool_size=1, query_timeout=1) as database:
        task = asyncio.create_task(change(database))
        await until(lambda: sql("select count(*) from things") == [(2,)])
        if cut:
            gate.cut()
        with pytest.raises(OutcomeUnknownError, match="may have been made"):
            await task
        assert not cut or await count_usable(database) == 1


@on_a_loop
async def test_binding_reads_signatures_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fresh(Queries, Protocol, file=COUNTS):
        async def count_things(self) -> int: ...
        async def get_last_name(self) -> str | None: ...

    read: list[str] = []
    monkeypatch.setattr(
        query_module, "read_signature", lambda *given: read.append(given[0]) or read_signature(*given)
    )
    async with opened(config, pool_size=1) as database:
        for _ in range(3):
            async with database.transaction(Fresh) as counts:
                assert await counts.count_things() == 0
    assert read == ["count_things", "get_last_name"]


@on_a_loop
async def test_a_block_that_goes_on_behind_an_error_ends_in_it(config: Config, sql: Sql) -> None:
    """PostgreSQL keeps nothing of it, so it must not look as if it had."""
    sql(FILL, 2)

    async def go_on(database: Database) -> None:
        async with database.transaction(ThingQueries) as things:
            await create(things, "x")
            with suppress(ConstraintError):
                await create(things, "thing 1")

    async with opened(config, pool_size=1) as database:
        with pytest.raises(ConstraintError, match="things_name_key"):
            await go_on(database)
        assert sql(NAMES) == [(["thing 1", "thing 2"],)]
