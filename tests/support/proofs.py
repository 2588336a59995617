"""Queries made for a test, and what the check finds of them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from svc.check.findings import Finding
from svc.check.prove import Proof, read_schema
from svc.check.scratch import connect
from svc.database_url import DatabaseUrl
from svc.postgres.queries import Signature, read_signature
from svc.postgres.statements import Query, read_queries
from tests.support import NUMBERS, TEMPLATE, at, make_config, skip_before_18

Pair = tuple[Query, Signature]


@contextmanager
def having(server_url: DatabaseUrl, admin: Callable[[str], None], schema: str) -> Iterator[DatabaseUrl]:
    """A database with these tables, for as long as the block lasts."""
    skip_before_18(server_url)
    name = f"{TEMPLATE}_{next(NUMBERS)}"
    admin(f"create database {name} template template0")
    asyncio.run(run_sql(at(server_url, name), schema))
    yield at(server_url, name)
    admin(f"drop database {name} with (force)")


async def run_sql(url: DatabaseUrl, text: str) -> None:
    """Runs statements on a connection of their own."""
    connection = await connect(make_config(url))
    await connection.execute(text)
    await connection.close()


def pair(method: Any, statement: str, kind: str = "many", annotations: str = "") -> Pair:
    """A query of a file, and its signature."""
    text = f"-- name: {method.__name__} :{kind}\n{annotations}-- For a test.\n{statement};\n"
    (query,) = read_queries(text, Path("made.sql")).values()
    return query, read_signature(method.__name__, method)


def prove(url: DatabaseUrl, *pairs: Pair) -> list[Finding]:
    """What is found of the queries without running them."""
    return [finding for found in prove_each(url, pairs) for finding in found]


def prove_each(url: DatabaseUrl, pairs: Sequence[Pair]) -> list[list[Finding]]:
    """The same, query by query."""

    async def run() -> list[list[Finding]]:
        connection = await connect(make_config(url))
        try:
            schema = await read_schema(connection)
            return [await Proof(connection, schema, *pair).run() for pair in pairs]
        finally:
            await connection.close()

    return asyncio.run(run())
