"""Nothing is sent but what was read from a .sql file: whatever one has in hand."""

import copy
import inspect
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

from svc.config import Config
from svc.postgres.connection import connect
from svc.postgres.statements import NO_TEXT, Query, load
from tests.support import with_settings
from tests.support.loops import on_a_loop
from tests.support.pools import opened

TEXT = "select 'sent'"

FORGED: dict[str, Callable[[Query], Any]] = {
    "a copy with another text": lambda query: msgspec.structs.replace(query, sql=TEXT),
    "a copy with the same": lambda query: msgspec.structs.replace(query),
    "a copy": copy.copy,
    "a deep copy": copy.deepcopy,
    "a new one": lambda query: Query(**{**msgspec.structs.asdict(query), "sql": TEXT}),
    "one out of JSON": lambda query: pickle.loads(pickle.dumps(query)),
    "something with a text": lambda query: type(
        "Fake", (), {"sql": TEXT, "name": query.name, "reads": True}
    )(),
    "a text": lambda query: TEXT,
    "what cannot be hashed": lambda query: [TEXT],
}

RUNS: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
    "fetch_one": lambda connection, query: connection.fetch_one(query, ()),
    "fetch_all": lambda connection, query: connection.fetch_all(query, ()),
    "change": lambda connection, query: connection.change(query, ()),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
@on_a_loop
async def test_a_query_that_was_not_read_from_a_file_is_refused(
    config: Config, forge: Callable[[Query], Any]
) -> None:
    query = load("health.sql")["get_writability"]
    forged = forge(query)
    for settings in ({}, {"statement_cache": 0}):
        connection = await connect(with_settings(config, **settings))
        try:
            for run in RUNS.values():
                assert await run(connection, query) is not None
                with pytest.raises(TypeError, match=f"{NO_TEXT}|unhashable"):
                    await run(connection, forged)
        finally:
            await connection.close()


@on_a_loop
async def test_a_query_whose_text_was_changed_is_sent_as_it_was_read(config: Config) -> None:
    query = load("health.sql")["get_writability"]
    text = query.sql
    try:
        msgspec.structs.force_setattr(query, "sql", TEXT)
        for settings in ({}, {"statement_cache": 0}):
            connection = await connect(with_settings(config, **settings))
            assert await connection.fetch_one(query, ()) == (True,)
            await connection.close()
    finally:
        msgspec.structs.force_setattr(query, "sql", text)


TAKES_TEXT = ("query", "command", "table_name", "channel")

SENDING = [
    name
    for name, method in inspect.getmembers(asyncpg.Connection, callable)
    if not name.startswith("_")
    and [*inspect.signature(method).parameters][1:2] in [[each] for each in TAKES_TEXT]
]
"""Every method of the driver that sends what it is given."""


@pytest.mark.parametrize("method", SENDING)
@on_a_loop
async def test_every_method_of_the_driver_that_takes_a_text_refuses_it(config: Config, method: str) -> None:
    for text in (TEXT, "BEGIN; select 1", "COMMIT; drop table users", "SHOW transaction_isolation; select 1"):
        connection = await connect(config)
        try:
            with pytest.raises(TypeError, match=NO_TEXT):
                await getattr(connection, method)(
                    text, *[None] * (method in ("remove_listener", "add_listener"))
                )
            assert not connection.is_in_transaction()
        finally:
            await connection.close()


def test_there_are_such_methods() -> None:
    assert {"execute", "executemany", "fetch", "fetchval", "fetchrow", "prepare", "cursor"} < {*SENDING}
    assert len(SENDING) > 12


@on_a_loop
async def test_what_the_driver_sends_of_its_own_goes_through(config: Config) -> None:
    connection = await connect(config)
    query = load("health.sql")["get_writability"]
    try:
        for how in (
            {},
            {"isolation": "repeatable_read", "readonly": True},
            {"isolation": "serializable", "deferrable": True},
        ):
            async with connection.transaction(**how):
                async with connection.transaction():
                    assert await connection.fetch_one(query, ()) == (not how.get("readonly"),)
                with pytest.raises(ZeroDivisionError):
                    async with connection.transaction(**{k: v for k, v in how.items() if k == "isolation"}):
                        raise ZeroDivisionError
    finally:
        await connection.close()


@on_a_loop
async def test_the_service_and_its_transactions_have_no_other_way(config: Config) -> None:
    query = load("health.sql")["get_writability"]
    async with opened(config) as database:
        for run in (database.fetch_one, database.fetch_all, database.change):
            with pytest.raises(TypeError, match=NO_TEXT):
                await run(msgspec.structs.replace(query, sql=TEXT), ())
        assert await database.fetch_one(query, ()) == (True,)
