"""Batchers in trouble: lost connections, servers that end, schemas that change, answers that never come."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from svc.config import Config
from svc.embedded import EmbeddedServer
from svc.migrations import migrate
from svc.postgres.errors import OutcomeUnknownError
from svc.postgres.queueing import CONCURRENCY
from tests.support import make_config
from tests.support.gates import Gate, LossyGate
from tests.support.locks import BACKENDS, BLOCKED, count_blocked, holding
from tests.support.loops import on_a_loop
from tests.support.pools import DATABASE_ERRORS, refuse
from tests.support.thing_batchers import KINDS, ThingBatchers, fill_places, notes, start, thing_batchers
from tests.support.things import EVERYTHING, FILL, WRITES, StoredThing, make_table
from tests.support.waiting import DEADLINE, until

Sql = Callable[..., list[tuple[Any, ...]]]

END_BLOCKED = f"select pid, pg_terminate_backend(pid, 5000) {BLOCKED}"


@pytest.mark.parametrize("times", [1, 2])
@on_a_loop
async def test_reads_whose_connections_are_lost_are_asked_again_once(
    config: Config, sql: Sql, times: int
) -> None:
    sql(FILL, 30)
    async with thing_batchers(config) as batchers:
        with holding(config, EVERYTHING):
            first = await fill_places(batchers)
            rest = [start(batchers.get(number)) for number in range(3, 31)]
            for _ in range(times):
                await until(lambda: count_blocked(sql) == CONCURRENCY)
                assert len(sql(END_BLOCKED)) == CONCURRENCY
            lost = [await refuse(task) for task in first] if times == 2 else []
        assert lost == ["database-unavailable"] * len(lost)
        assert notes(await asyncio.gather(*first[len(lost) :])) == ["1", "2"][len(lost) :]
        assert notes(await asyncio.gather(*rest)) == [str(number) for number in range(3, 31)]


@on_a_loop
async def test_a_change_of_the_schema_under_prepared_statements_is_survived(config: Config, sql: Sql) -> None:
    sql(FILL, 30)
    async with thing_batchers(config, pool_size=2) as batchers:
        for change in (
            "select 1",
            "alter table things add column nickname text default 'x'",
            "alter table things alter column note type varchar(500)",
            "alter table things drop column nickname",
            "alter table things alter column note type text",
        ):
            sql(change)
            for ask, _, _ in KINDS:
                rows = await asyncio.gather(*(ask(batchers, number) for number in range(1, 31)))
                assert notes([*rows, await ask(batchers, 1)]) == [*map(str, range(1, 31)), "1"], change
        thing = await batchers.get(1)
        assert thing
        assert thing.version == 11


async def is_refused(batchers: ThingBatchers) -> bool:
    """Return whether the server is not there yet."""
    with suppress(*DATABASE_ERRORS):
        return await batchers.get(1) is None
    return True


def find_blocked(connection: psycopg.Connection) -> list[int]:
    """Return the processes that wait for a lock."""
    connection.execute("select pg_stat_clear_snapshot()")  # in a transaction the first look is kept
    return [pid for (pid,) in connection.execute(f"select pid {BLOCKED}".encode())]


@on_a_loop
async def test_batchers_outlive_a_crash_of_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, ("fsync=off",)) as server:
        config = make_config(server.url)
        await migrate(config)
        make_table(server.url)
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(FILL.encode(), [30])
        async with thing_batchers(config) as batchers:
            with suppress(psycopg.OperationalError), holding(config, WRITES) as connection:
                first = await fill_places(batchers, ThingBatchers.change)
                rest = [start(batchers.change(number)) for number in range(3, 31)]
                await until(lambda: len(find_blocked(connection)) == CONCURRENCY)
                os.kill(find_blocked(connection)[0], signal.SIGKILL)
                assert [await refuse(task) for task in first] == ["outcome-unknown"] * CONCURRENCY
            ends = await asyncio.gather(*rest, return_exceptions=True)
            assert [end for end in ends if not isinstance(end, (StoredThing, *DATABASE_ERRORS))] == []
            async with asyncio.timeout(DEADLINE):
                while await is_refused(batchers):  # noqa: ASYNC110  # no event tells of it
                    await asyncio.sleep(0.1)
            for ask, _, _ in KINDS:
                rows = await asyncio.gather(*(ask(batchers, number) for number in range(1, 31)))
                assert notes(rows) == [str(number) for number in range(1, 31)]


@on_a_loop
async def test_a_batch_of_changes_that_the_server_ended_was_not_made(config: Config, sql: Sql) -> None:
    sql(FILL, 30)
    async with thing_batchers(config) as batchers:
        with holding(config, WRITES):
            first = await fill_places(batchers, ThingBatchers.change)
            rest = [start(batchers.change(number)) for number in range(3, 31)]
            await until(lambda: count_blocked(sql) == CONCURRENCY)
            sql(END_BLOCKED)
            assert {await refuse(task) for task in first} == {"database-unavailable"}
            while not all(task.done() for task in rest):  # in one batch or in two
                await until(lambda: count_blocked(sql) or all(task.done() for task in rest))
                sql(END_BLOCKED)
            assert {await refuse(task) for task in rest} == {"database-unavailable"}
        assert sql("select distinct version from things") == [(1,)]
        rows = await asyncio.gather(*map(batchers.change, range(1, 31)))
        assert {row and row.version for row in rows} == {2}


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("numbers", [[1], [1, 2, 3]])
@on_a_loop
async def test_a_change_that_was_made_unheard_says_that_it_may_have_been(
    config: Config, sql: Sql, numbers: list[int], cut: bool
) -> None:
    sql(FILL, 5)
    gate = LossyGate(config.database_url)
    async with (
        gate as url,
        thing_batchers(config, database_url=url, pool_size=2, query_timeout=1) as batchers,
    ):
        await asyncio.gather(*map(batchers.change, numbers))
        gate.mute()
        tasks = [start(batchers.change(number)) for number in numbers]
        await until(lambda: sql("select count(*) from things where version = 3") == [(len(numbers),)])
        if cut:
            gate.cut()
        for task in tasks:
            with pytest.raises(OutcomeUnknownError, match="may have been made"):
                await task
        assert not cut or notes([await batchers.get(1)]) == ["1"]


@on_a_loop
async def test_a_change_that_was_never_sent_does_not_say_that_it_may_have_been_made(
    config: Config, sql: Sql
) -> None:
    sql(FILL, 30)
    gate = Gate(config.database_url)
    async with gate as url:
        pass
    async with thing_batchers(config, database_url=url) as batchers:  # nobody listens
        ends = [refuse(batchers.change(number)) for number in range(1, 30)]
        assert set(await asyncio.gather(*ends)) == {"database-unavailable"}
    async with thing_batchers(config, pool_size=2) as batchers:
        await asyncio.gather(*map(batchers.change, range(1, 11)), *map(batchers.get, range(1, 11)))
        sql(f"select pg_terminate_backend(pid, 5000) {BACKENDS}")  # while they lie idle and nobody looks
        assert await refuse(batchers.change(1)) == "database-unavailable"
        assert notes([await batchers.change(1)]) == ["1"]
    assert sql("select version from things where id in (1, 11) order by id") == [(3,), (1,)]
