"""Lanes in trouble: connections that are lost, servers that end, schemas that change, answers that never come."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from svc.config import Config, DatabaseUrl
from svc.postgres.embedded import EmbeddedServer
from svc.postgres.errors import OutcomeUnknownError
from svc.postgres.migrations import migrate
from svc.postgres.queueing import CONCURRENCY
from svc.users.rows import StoredUser
from tests.health.test_health import Gate
from tests.postgres.test_batching import (
    EVERYTHING,
    FILL,
    KINDS,
    WRITES,
    Lanes,
    fill_lane,
    holding,
    lanes,
    names,
)
from tests.postgres.test_pool import DATABASE_ERRORS, OURS, on_a_loop, refuse, until

Sql = Callable[..., list[tuple[Any, ...]]]

BLOCKED = f"{OURS} and wait_event_type = 'Lock'"


@pytest.mark.parametrize("times", [1, 2])
@on_a_loop
async def test_reads_whose_connections_are_lost_are_asked_again_once(
    config: Config, sql: Sql, times: int
) -> None:
    sql(FILL, 30)
    async with lanes(config) as it:
        with holding(config, EVERYTHING):
            first = await fill_lane(it)
            rest = [asyncio.ensure_future(it.get(number)) for number in range(3, 31)]
            for _ in range(times):
                await until(lambda: len(sql(f"select pid {BLOCKED}")) == CONCURRENCY)
                sql(f"select pg_terminate_backend(pid, 5000) {BLOCKED}")
                await asyncio.sleep(0.05)
            lost = [await refuse(task) for task in first] if times == 2 else []
        assert lost == ["database-unavailable"] * len(lost)
        assert names(await asyncio.gather(*first[len(lost) :])) == ["1", "2"][len(lost) :]
        assert names(await asyncio.gather(*rest)) == [str(number) for number in range(3, 31)]


@on_a_loop
async def test_a_change_of_the_schema_under_prepared_statements_is_survived(config: Config, sql: Sql) -> None:
    sql(FILL, 30)
    async with lanes(config, pool_size=2) as it:
        for change in (
            "select 1",
            "alter table users add column nickname text default 'x'",
            "alter table users alter column display_name type varchar(500)",
            "alter table users drop column nickname",
            "alter table users alter column display_name type text",
        ):
            sql(change)
            for ask, _, _ in KINDS:
                rows = await asyncio.gather(*(ask(it, number) for number in range(1, 31)))
                assert names([*rows, await ask(it, 1)]) == [*map(str, range(1, 31)), "1"], change
        version = await it.get(1)
        assert version
        assert version.version == 11


async def is_refused(it: Lanes) -> bool:
    """Whether the server is not there yet."""
    with suppress(*DATABASE_ERRORS):
        return await it.get(1) is None
    return True


def find_blocked(connection: psycopg.Connection) -> list[int]:
    """The processes that wait for a lock."""
    connection.execute("select pg_stat_clear_snapshot()")  # in a transaction the first look is kept
    return [pid for (pid,) in connection.execute(f"select pid {BLOCKED}".encode())]


@on_a_loop
async def test_lanes_outlive_a_crash_of_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, ("fsync=off",)) as server:
        config = Config(database_url=DatabaseUrl(server.url))
        await migrate(config)
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(FILL.encode(), [30])
        async with lanes(config) as it:
            with suppress(psycopg.OperationalError), holding(config, WRITES) as connection:
                first = await fill_lane(it, Lanes.change)
                rest = [asyncio.ensure_future(it.change(number)) for number in range(3, 31)]
                await until(lambda: len(find_blocked(connection)) == CONCURRENCY)
                os.kill(find_blocked(connection)[0], signal.SIGKILL)
                assert [await refuse(task) for task in first] == ["outcome-unknown"] * CONCURRENCY
            ends = await asyncio.gather(*rest, return_exceptions=True)
            assert [end for end in ends if not isinstance(end, (StoredUser, *DATABASE_ERRORS))] == []
            async with asyncio.timeout(10):
                while await is_refused(it):  # noqa: ASYNC110  # no event tells of it
                    await asyncio.sleep(0.1)
            for ask, _, _ in KINDS:
                rows = await asyncio.gather(*(ask(it, number) for number in range(1, 31)))
                assert names(rows) == [str(number) for number in range(1, 31)]


@on_a_loop
async def test_a_batch_of_changes_that_the_server_ended_was_not_made(config: Config, sql: Sql) -> None:
    sql(FILL, 30)
    async with lanes(config) as it:
        with holding(config, WRITES):
            first = await fill_lane(it, Lanes.change)
            rest = [asyncio.ensure_future(it.change(number)) for number in range(3, 31)]
            for more in (first, rest):
                await until(lambda: sql(f"select pid {BLOCKED}") != [])
                await asyncio.sleep(0.05)
                sql(f"select pg_terminate_backend(pid, 5000) {BLOCKED}")
                assert {await refuse(task) for task in more} == {"database-unavailable"}
        assert sql("select distinct version from users") == [(1,)]
        assert {row and row.version for row in await asyncio.gather(*map(it.change, range(1, 31)))} == {2}


class LossyGate(Gate):
    """One that can lose what the server answers."""

    def mute(self) -> None:
        """The server is not heard any more."""
        for pump in self._pumps[1::2]:
            pump.cancel()

    def cut(self) -> None:
        """Its clients are hung up on."""
        for _, writer in self._pairs[1::2]:
            writer.close()


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("numbers", [[1], [1, 2, 3]])
@on_a_loop
async def test_a_change_that_was_made_unheard_says_that_it_may_have_been(
    config: Config, sql: Sql, numbers: list[int], cut: bool
) -> None:
    sql(FILL, 5)
    gate = LossyGate(config.database_url)
    async with gate as url, lanes(config, database_url=url, pool_size=2, query_timeout=0.5) as it:
        await asyncio.gather(*map(it.change, numbers))
        gate.mute()
        tasks = [asyncio.ensure_future(it.change(number)) for number in numbers]
        await until(lambda: sql("select count(*) from users where version = 3") == [(len(numbers),)])
        if cut:
            gate.cut()
        for task in tasks:
            with pytest.raises(OutcomeUnknownError, match="may have been made"):
                await task
        assert not cut or names([await it.get(1)]) == ["1"]


@on_a_loop
async def test_a_change_that_was_never_sent_does_not_say_that_it_may_have_been_made(
    config: Config, sql: Sql
) -> None:
    sql(FILL, 30)
    gate = Gate(config.database_url)
    async with gate as url:
        pass
    async with lanes(config, database_url=url) as it:  # nobody listens
        ends = [refuse(it.change(number)) for number in range(1, 30)]
        assert set(await asyncio.gather(*ends)) == {"database-unavailable"}
    async with lanes(config, pool_size=2) as it:
        await asyncio.gather(*map(it.change, range(1, 11)), *map(it.get, range(1, 11)))
        sql(f"select pg_terminate_backend(pid, 5000) {OURS}")  # while they lie idle and nobody looks
        assert {await refuse(it.change(number)) for number in (1,)} == {"database-unavailable"}
        assert names([await it.change(1)]) == ["1"]
    assert sql("select version from users where id in (1, 11) order by id") == [(3,), (1,)]
