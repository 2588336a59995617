"""Lanes: when a batch leaves and with whom, what bounds it, and what callers can do to it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from random import Random
from typing import Any

import psycopg
import pytest
from msgspec import Struct

from svc.app import MOST, WIDTH, find_limits
from svc.config import Config
from svc.db import Database
from svc.rows import Ids, StoredUser
from svc.sql import Row
from svc.statements import Query
from svc.structs import UpdateUser
from svc.user_lists import EmailLane, UserListQueries
from svc.users import ChangeLane, UserChange, UserLane, UserQueries
from tests.test_db import on_a_loop, opened, refuse, until

Sql = Callable[..., list[tuple[Any, ...]]]

FILL = """insert into users (email, hashed_password, display_name)
select n || '@example.com', '', n::text from generate_series(1, %s) as n"""

UNREADABLE = """create or replace function rfc3339(moment timestamptz) returns text language plpgsql as $$
begin
    if moment >= '10000-01-01' then raise 'no such year'; end if;
    return moment::text;
end $$"""

EVERYTHING = "lock table users in access exclusive mode"
WRITES = "lock table users in share mode"


class Noting:
    """An Executor that notes what goes to the database behind it: each query, and how many keys it names."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sent: list[tuple[str, int]] = []

    def note(self, query: Query, arguments: Sequence[Any]) -> None:
        keys = arguments[0] if query.name.endswith("s") or query.name == "get_users_by_email" else [1]
        self.sent.append((query.name, keys.count(",") + 1 if isinstance(keys, Ids) else len(keys)))

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        self.note(query, arguments)
        return await self.database.fetch_one(query, arguments)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        self.note(query, arguments)
        return await self.database.fetch_all(query, arguments)

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        self.note(query, arguments)
        return await self.database.change(query, arguments)


class Lanes(Struct):
    """One worker's lanes, and what they sent."""

    sent: list[tuple[str, int]]
    users: UserQueries
    by_id: UserLane
    by_email: EmailLane
    changes: ChangeLane

    async def get(self, number: int) -> StoredUser | None:
        return await self.by_id.get(number)

    async def find(self, number: int) -> StoredUser | None:
        return await self.by_email.get(f"{number}@example.com")

    async def change(self, number: int, version: int | None = None) -> StoredUser | None:
        """Gives a user the name that it has already."""
        versions = None if version is None else [version]
        return await self.changes.get(UserChange(number, versions, UpdateUser(display_name=str(number))))


KINDS = [
    (Lanes.get, "get_user", "get_users"),
    (Lanes.find, "get_user_by_email", "get_users_by_email"),
    (Lanes.change, "update_user", "update_users"),
]
Ask = Callable[..., Awaitable[StoredUser | None]]


@asynccontextmanager
async def lanes(config: Config, **settings: Any) -> AsyncGenerator[Lanes]:
    """The lanes as the app makes them."""
    async with opened(config, **settings) as database:
        noting, limits = Noting(database), find_limits(database.config)
        users, lists = UserQueries.bind(noting), UserListQueries.bind(noting)
        made = UserLane(users, limits), EmailLane(lists, limits), ChangeLane(users, limits)
        yield Lanes(noting.sent, users, *made)


@contextmanager
def holding(config: Config, statement: str) -> "Iterator[psycopg.Connection]":
    """Somebody else has done this and not committed yet."""
    with psycopg.connect(str(config.database_url)) as connection:
        connection.execute(statement.encode())
        yield connection
        connection.rollback()


async def fill_lane(lanes: Lanes, ask: Ask = Lanes.get) -> "list[asyncio.Task[StoredUser | None]]":
    """As many single ones as may be under way at once, each in a turn of its own."""
    tasks = []
    for number in range(1, WIDTH + 1):
        tasks.append(asyncio.ensure_future(ask(lanes, number)))
        await asyncio.sleep(0.01)
    return tasks


def names(rows: Sequence[StoredUser | None]) -> list[str | None]:
    return [row and row.display_name for row in rows]


@on_a_loop
async def test_one_at_a_time_leaves_at_once_and_alone(config: Config, sql: Sql) -> None:
    sql(FILL, 3)
    async with lanes(config) as it:
        for _ in range(10):
            for ask, alone, _ in KINDS:
                assert names([await ask(it, 2)]) == ["2"]
                assert it.sent.pop() == (alone, 1)
        answers: list[object] = []
        it.by_id.ask(3, lambda row, error: answers.append((row and row.id, error)))
        await asyncio.sleep(0)
        assert it.sent == [("get_user", 1)]
        await until(lambda: bool(answers))
    assert answers == [(3, None)]


@pytest.mark.parametrize(("ask", "alone", "together"), KINDS)
@pytest.mark.parametrize(  # in the last, the first batch is back before the second of the single ones
    ("last", "sizes"), [(18, [[16]]), (60, [[30, 28], [30, 16, 12]])]
)
@on_a_loop
async def test_what_comes_while_all_are_out_leaves_as_one_or_by_halves(
    config: Config, sql: Sql, ask: Ask, alone: str, together: str, last: int, sizes: list[list[int]]
) -> None:
    sql(FILL, 60)
    async with lanes(config) as it:
        with holding(config, EVERYTHING):
            tasks = await fill_lane(it, ask)
            tasks += [asyncio.ensure_future(ask(it, number)) for number in range(WIDTH + 1, last + 1)]
            await asyncio.sleep(0.05)
            assert it.sent == [(alone, 1)] * WIDTH
        assert names(await asyncio.gather(*tasks)) == [str(number) for number in range(1, last + 1)]
    assert {name for name, _ in it.sent[WIDTH:]} == {together}
    assert [size for _, size in it.sent[WIDTH:]] in sizes


@pytest.mark.parametrize("settings", [{}, {"statement_cache": 0}, {"batching": False}])
@on_a_loop
async def test_each_gets_the_row_that_it_asked_for_or_none(
    config: Config, sql: Sql, settings: dict[str, Any]
) -> None:
    sql(FILL, 50)
    asked = Random(3).choices(range(1, 100), k=400)
    async with lanes(config, **settings) as it:
        found = await asyncio.gather(*(it.get(n) for n in asked), *(it.find(n) for n in asked))
        assert names(found) == [str(n) if n <= 50 else None for n in asked] * 2
        changed = await asyncio.gather(*map(it.change, asked))
        assert names(changed) == [str(n) if n <= 50 else None for n in asked]
        assert sql("select sum(version) - 50 from users") == [(sum(n <= 50 for n in asked),)]


@on_a_loop
async def test_a_batch_is_bounded_and_the_rest_goes_beside_it(config: Config, sql: Sql) -> None:
    numbers = range(1, WIDTH * MOST + 11)
    sql(FILL, len(numbers))
    async with lanes(config) as it:
        for ask, _, together in KINDS:
            with holding(config, EVERYTHING):
                tasks = [asyncio.ensure_future(ask(it, number)) for number in numbers]
                await asyncio.sleep(0.1)
                assert it.sent == [(together, MOST)] * WIDTH
            assert names(await asyncio.gather(*tasks)) == [str(number) for number in numbers]
            assert it.sent == [(together, MOST)] * WIDTH + [(together, 10)]
            it.sent.clear()


@on_a_loop
async def test_without_batching_each_goes_alone_on_all_connections_at_once(config: Config, sql: Sql) -> None:
    sql(FILL, 12)
    async with lanes(config, pool_size=4, batching=False) as it:
        for ask, alone, _ in KINDS:
            with holding(config, EVERYTHING):
                tasks = [asyncio.ensure_future(ask(it, number)) for number in range(1, 13)]
                await asyncio.sleep(0.05)
                assert it.sent == [(alone, 1)] * 4
            assert names(await asyncio.gather(*tasks)) == [str(number) for number in range(1, 13)]
            assert it.sent == [(alone, 1)] * 12
            it.sent.clear()


@on_a_loop
async def test_a_full_lane_refuses_at_once(config: Config, sql: Sql) -> None:
    sql(FILL, 10)
    async with lanes(config, queue_size=5) as it:
        with holding(config, EVERYTHING):
            tasks = await fill_lane(it)
            tasks += [asyncio.ensure_future(it.get(number)) for number in range(3, 8)]
            await asyncio.sleep(0)
            refused = [asyncio.ensure_future(refuse(it.get(8))) for _ in range(20)]
            await asyncio.sleep(0)
            assert [task.done() and task.result() for task in refused] == ["overload"] * 20
        assert names(await asyncio.gather(*tasks)) == [str(number) for number in range(1, 8)]
        assert names([await it.get(8)]) == ["8"]


@on_a_loop
async def test_who_waits_in_a_lane_too_long_is_told_in_time(config: Config, sql: Sql) -> None:
    sql(FILL, 50)
    ends: dict[int, float] = {}

    async def wait(it: Lanes, number: int) -> str | None:
        started = time.monotonic()
        code = await refuse(it.get(number))
        ends[number] = time.monotonic() - started
        return code

    async with lanes(config, acquire_timeout=0.3) as it:
        with holding(config, EVERYTHING):
            first = await fill_lane(it)
            codes = []
            for number in range(3, 20):
                codes.append(asyncio.create_task(wait(it, number)))
                await asyncio.sleep(0.02)
            assert set(await asyncio.gather(*codes)) == {"overload"}
        assert names(await asyncio.gather(*first)) == ["1", "2"]
        assert [number for number, seconds in ends.items() if not 0.29 < seconds < 0.45] == []
        assert names([await it.get(3)]) == ["3"]


@on_a_loop
async def test_who_goes_away_takes_nothing_along(
    config: Config, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    sql(FILL, 40)
    dice = Random(5)
    async with lanes(config, pool_size=3) as it:
        for ask, _, _ in KINDS * 10:
            tasks = [asyncio.ensure_future(ask(it, number)) for number in range(1, 41)]
            for task in dice.sample(tasks, 30):
                await asyncio.sleep(dice.choice([0, 0, 0.0005]))
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            stayed = [
                (n, end) for n, end in enumerate(ends, 1) if not isinstance(end, asyncio.CancelledError)
            ]
            assert [end.id for _, end in stayed if isinstance(end, StoredUser)] == [n for n, _ in stayed]
        it.sent.clear()
        with holding(config, EVERYTHING):
            tasks = await fill_lane(it)
            assert len(it.sent) == WIDTH  # no place was lost
        await asyncio.gather(*tasks)
    assert caplog.records == []


@on_a_loop
async def test_who_fails_on_being_told_harms_nobody(
    config: Config, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    sql(FILL, 5)
    told: list[object] = []

    def fail(row: StoredUser | None, error: Exception | None) -> None:
        told.append(row.id if row else error)
        raise RuntimeError

    async with lanes(config) as it:
        it.by_id.ask(1, fail)
        assert names([await it.get(2)]) == ["2"]
        it.by_id.ask(3, fail)
        await until(lambda: len(told) == 2)
        it.changes.ask(UserChange(4, None, UpdateUser(display_name="D")), fail)
        assert names(await asyncio.gather(it.change(5), it.change(1))) == ["5", "1"]
        await until(lambda: len(told) == 3)
        assert names([await it.get(4)]) == ["D"]
    assert told == [1, 3, 4]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError] * 3


@on_a_loop
async def test_a_row_that_cannot_be_read_fails_alone(config: Config, sql: Sql) -> None:
    sql(FILL, 20)
    sql("update users set created_at = '10000-01-01' where id = 7")
    sql(UNREADABLE)
    async with lanes(config) as it:
        ends = await asyncio.gather(*(it.get(n) for n in range(1, 21)), return_exceptions=True)
        assert [n for n, end in enumerate(ends, 1) if not isinstance(end, StoredUser)] == [7]
        assert names([await it.get(8)]) == ["8"]
