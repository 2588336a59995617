"""Batchers: when a batch leaves and with whom, what bounds it, and what callers can do to it."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from svc.config import Config
from svc.postgres.errors import OverloadedError
from svc.postgres.queueing import CONCURRENCY, MAX_BATCH_SIZE
from tests.support.locks import holding
from tests.support.loops import on_a_loop, take_turns
from tests.support.pools import refuse
from tests.support.thing_batchers import KINDS, Ask, ThingBatchers, fill_places, notes, start, thing_batchers
from tests.support.things import EVERYTHING, FILL, StoredThing, ThingChange, UpdateThing
from tests.support.waiting import until

Sql = Callable[..., list[tuple[Any, ...]]]

UNREADABLE = "update things set created_at = '10000-01-01' where id = 7"
"""Python has no such year."""


@on_a_loop
async def test_one_at_a_time_leaves_at_once_and_alone(config: Config, sql: Sql) -> None:
    sql(FILL, 3)
    async with thing_batchers(config) as batchers:
        for _ in range(10):
            for ask, alone, _ in KINDS:
                assert notes([await ask(batchers, 2)]) == ["2"]
                assert batchers.sent.pop() == (alone, 1)
        answers: list[object] = []
        batchers.things.by_id.submit(3, lambda row, error: answers.append((row and row.id, error)))
        await asyncio.sleep(0)
        assert batchers.sent == [("get_thing", 1)]
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
    async with thing_batchers(config) as batchers:
        with holding(config, EVERYTHING):
            tasks = await fill_places(batchers, ask)
            tasks += [start(ask(batchers, number)) for number in range(CONCURRENCY + 1, last + 1)]
            await take_turns()
            assert batchers.sent == [(alone, 1)] * CONCURRENCY
        assert notes(await asyncio.gather(*tasks)) == [str(number) for number in range(1, last + 1)]
    assert {name for name, _ in batchers.sent[CONCURRENCY:]} == {together}
    assert [size for _, size in batchers.sent[CONCURRENCY:]] in sizes


@pytest.mark.parametrize("settings", [{}, {"statement_cache": 0}, {"batching": False}])
@on_a_loop
async def test_each_gets_the_row_that_it_asked_for_or_none(
    config: Config, sql: Sql, settings: dict[str, Any]
) -> None:
    sql(FILL, 50)
    asked = Random(3).choices(range(1, 100), k=400)
    async with thing_batchers(config, **settings) as batchers:
        found = await asyncio.gather(*map(batchers.get, asked), *map(batchers.find, asked))
        assert notes(found) == [str(n) if n <= 50 else None for n in asked] * 2
        changed = await asyncio.gather(*map(batchers.change, asked))
        assert notes(changed) == [str(n) if n <= 50 else None for n in asked]
        assert sql("select sum(version) - 50 from things") == [(sum(n <= 50 for n in asked),)]


@on_a_loop
async def test_a_batch_is_bounded_and_the_rest_goes_beside_it(config: Config, sql: Sql) -> None:
    numbers = range(1, CONCURRENCY * MAX_BATCH_SIZE + 11)
    sql(FILL, len(numbers))
    async with thing_batchers(config) as batchers:
        for ask, _, together in KINDS:
            with holding(config, EVERYTHING):
                tasks = [start(ask(batchers, number)) for number in numbers]
                await take_turns()
                assert batchers.sent == [(together, MAX_BATCH_SIZE)] * CONCURRENCY
            assert notes(await asyncio.gather(*tasks)) == [str(number) for number in numbers]
            assert batchers.sent == [(together, MAX_BATCH_SIZE)] * CONCURRENCY + [(together, 10)]
            batchers.sent.clear()


@on_a_loop
async def test_without_batching_each_goes_alone_on_all_connections_at_once(config: Config, sql: Sql) -> None:
    sql(FILL, 12)
    async with thing_batchers(config, pool_size=4, batching=False) as batchers:
        for ask, alone, _ in KINDS:
            with holding(config, EVERYTHING):
                tasks = [start(ask(batchers, number)) for number in range(1, 13)]
                await take_turns()
                assert batchers.sent == [(alone, 1)] * 4
            assert notes(await asyncio.gather(*tasks)) == [str(number) for number in range(1, 13)]
            assert batchers.sent == [(alone, 1)] * 12
            batchers.sent.clear()


@on_a_loop
async def test_a_full_queue_refuses_at_once(config: Config, sql: Sql) -> None:
    sql(FILL, 10)
    told: list[object] = []
    async with thing_batchers(config, queue_size=5) as batchers:
        with holding(config, EVERYTHING):
            tasks = await fill_places(batchers)
            tasks += [start(batchers.get(number)) for number in range(3, 8)]
            await take_turns()
            for _ in range(20):
                with pytest.raises(OverloadedError):
                    batchers.things.by_id.submit(8, lambda row, error: told.append(row or error))
            assert await refuse(batchers.get(8)) == "overload"
        assert notes(await asyncio.gather(*tasks)) == [str(number) for number in range(1, 8)]
        assert notes([await batchers.get(8)]) == ["8"]
    assert told == []


@on_a_loop
async def test_who_waits_too_long_is_refused_in_the_order_of_coming_and_never_early(
    config: Config, sql: Sql
) -> None:
    sql(FILL, 50)
    clock = asyncio.get_running_loop().time
    waits: list[tuple[int, float]] = []

    async def wait(batchers: ThingBatchers, number: int) -> str | None:
        came = clock()
        code = await refuse(batchers.get(number))
        waits.append((number, clock() - came))
        return code

    async with thing_batchers(config, acquire_timeout=0.2) as batchers:
        with holding(config, EVERYTHING):
            first = await fill_places(batchers)
            codes = []
            for number in range(3, 20):
                codes.append(asyncio.create_task(wait(batchers, number)))
                await asyncio.sleep(0.02)
            assert {*await asyncio.gather(*codes)} == {"overload"}
        assert notes(await asyncio.gather(*first)) == ["1", "2"]
        assert notes([await batchers.get(3)]) == ["3"]
    assert [number for number, _ in waits] == [*range(3, 20)]
    assert min(seconds for _, seconds in waits) > 0.19  # of a clock with a resolution


@on_a_loop
async def test_who_goes_away_takes_nothing_along(
    config: Config, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    sql(FILL, 40)
    dice = Random(5)
    async with thing_batchers(config, pool_size=3) as batchers:
        for ask, _, _ in KINDS * 10:
            tasks = [start(ask(batchers, number)) for number in range(1, 41)]
            for task in dice.sample(tasks, 30):
                await asyncio.sleep(dice.choice([0, 0, 0.0005]))
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            stayed = [
                (n, end) for n, end in enumerate(ends, 1) if not isinstance(end, asyncio.CancelledError)
            ]
            assert [end.id for _, end in stayed if isinstance(end, StoredThing)] == [n for n, _ in stayed]
        batchers.sent.clear()
        with holding(config, EVERYTHING):
            tasks = await fill_places(batchers)  # no place was lost
        assert notes(await asyncio.gather(*tasks)) == ["1", "2"]
    assert caplog.records == []


@on_a_loop
async def test_who_fails_on_being_told_harms_nobody(
    config: Config, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    sql(FILL, 5)
    told: list[object] = []

    def fail(row: StoredThing | None, error: Exception | None) -> None:
        told.append(row.id if row else error)
        raise RuntimeError

    async with thing_batchers(config) as batchers:
        batchers.things.by_id.submit(1, fail)
        assert notes([await batchers.get(2)]) == ["2"]
        batchers.things.by_id.submit(3, fail)
        await until(lambda: len(told) == 2)
        batchers.things.changes.submit(ThingChange(4, None, UpdateThing(note="D")), fail)
        assert notes(await asyncio.gather(batchers.change(5), batchers.change(1))) == ["5", "1"]
        await until(lambda: len(told) == 3)
        assert notes([await batchers.get(4)]) == ["D"]
    assert told == [1, 3, 4]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError] * 3


@on_a_loop
async def test_a_row_that_cannot_be_read_fails_alone(config: Config, sql: Sql) -> None:
    sql(FILL, 20)
    sql(UNREADABLE)
    async with thing_batchers(config) as batchers:
        ends = await asyncio.gather(*map(batchers.get, range(1, 21)), return_exceptions=True)
        assert ("get_things", 16) in batchers.sent
        assert [n for n, end in enumerate(ends, 1) if not isinstance(end, StoredThing)] == [7]
        assert notes([await batchers.get(8)]) == ["8"]
