"""Old and new together: while a release rolls out, the old code runs on the new schema."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import asyncpg

from svc.check.findings import Finding, find, find_position
from svc.config import CHECKOUT, Config
from svc.db import Connection, connect
from svc.migrate import rollback
from svc.schema import read_files
from svc.sql import Query, read_queries


class RolloutError(Exception):
    """The other release cannot be read; the message says why."""


class Shape(NamedTuple):
    """What a statement takes and gives, as types."""

    parameters: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]


def read_git(*arguments: str) -> str:
    """What git prints. Raises RolloutError."""
    command = ["git", "-C", str(CHECKOUT), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise RolloutError(ran.stderr.strip() or f"git {arguments[0]} failed")
    return ran.stdout


def read_release(revision: str) -> tuple[list[Query], set[str]]:
    """The queries of another revision, and the names of its migrations. Raises RolloutError."""
    files = read_git("ls-tree", "-r", "--name-only", revision, "queries", "migrations").split("\n")
    queries = [
        query
        for file in files
        if re.fullmatch(r"queries/[^/]+\.sql", file)
        for query in read_queries(read_git("show", f"{revision}:{file}"), Path(f"{revision}:{file}")).values()
    ]
    names = {Path(f).stem for f in files if f.endswith(".sql") and not f.endswith(".rollback.sql")}
    return queries, names & {Path(f).stem for f in files if f.startswith("migrations/")}


async def read_shape(connection: Connection, query: Query) -> Shape | asyncpg.PostgresError:
    """A statement's types on this schema, or why it does not prepare."""
    try:
        statement = await connection.prepare(query.sql)
    except asyncpg.PostgresError as error:
        return error
    return Shape(
        tuple(type_.name for type_ in statement.get_parameters()),
        tuple((attribute.name, attribute.type.name) for attribute in statement.get_attributes()),
    )


async def check_rollout(config: Config, revision: str, new: Sequence[Query]) -> list[Finding]:
    """Prepares the old release's queries on the new schema; then takes the new migrations back one by one
    and prepares the new queries after each. The scratch database is left on the old schema.
    """
    old, known = read_release(revision)
    added = [name for name in read_files() if name not in known]
    before = {query.name: await on_own_connection(config, query) for query in old}
    found: list[Finding] = []
    for name in reversed(added):
        await rollback(config, 1)
        for query in new:
            shape = await on_own_connection(config, query)
            if isinstance(shape, asyncpg.PostgresError):
                found.append(
                    explain(query, shape, f"a query that outlives the rollback of {name}", warning=True)
                )
    for query in old:
        found += compare(query, revision, before[query.name], await on_own_connection(config, query))
    return found


async def on_own_connection(config: Config, query: Query) -> Shape | asyncpg.PostgresError:
    """A connection each: what one has prepared must not outlive a migration."""
    connection = await connect(config)
    try:
        return await read_shape(connection, query)
    finally:
        await connection.close()


def compare(
    query: Query,
    revision: str,
    on_new: Shape | asyncpg.PostgresError,
    on_old: Shape | asyncpg.PostgresError,
) -> list[Finding]:
    """What an old query finds different on the new schema."""
    if isinstance(on_new, asyncpg.PostgresError):
        return [explain(query, on_new, f"a query of {revision} that prepares on the new schema")]
    if isinstance(on_old, Shape) and on_new != on_old:
        return [find(query, "rollout", f"{revision}: {on_old}", f"on the new schema: {on_new}")]
    return []


def explain(query: Query, error: asyncpg.PostgresError, expected: str, warning: bool = False) -> Finding:
    """A finding out of PostgreSQL's error, at its place in the SQL."""
    position = getattr(error, "position", None)
    at = find_position(query, int(position)) if position else None
    return find(query, "rollout", expected, f"{error.sqlstate} {error.args[0]}", at, warning)
