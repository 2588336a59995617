"""Old and new together: while a release rolls out, the old code runs on the new schema."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import asyncpg

from svc.check.drift import compare, read_snapshot
from svc.check.findings import Finding, find, find_position
from svc.check.scratch import ScratchConnection, connect
from svc.config import CHECKOUT, Config
from svc.migrations import read_files, rollback
from svc.postgres.catalog import CatalogQueries
from svc.postgres.proven import Written, decode_written
from svc.postgres.statements import Query, read_queries


class RolloutError(Exception):
    """The other release cannot be read; the message says why."""


class Shape(NamedTuple):
    """What a statement takes and gives, as types."""

    parameters: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]


def read_git(*arguments: str) -> str:
    """Return what git prints. Raises RolloutError."""
    command = ["git", "-C", str(CHECKOUT), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise RolloutError(ran.stderr.strip() or f"git {arguments[0]} failed")
    return ran.stdout


class Release(NamedTuple):
    """Another revision: its queries, the names of its migrations, what was proven of it."""

    revision: str
    queries: list[Query]
    migrations: set[str]
    written: Written


def read_release(revision: str) -> Release:
    """Read another revision out of git. Raises RolloutError."""
    commit = read_git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()
    files = read_git("ls-tree", "-r", "--name-only", commit, "queries", "migrations").split("\n")
    texts = {
        Path(f"{revision}:{file}"): read_git("show", f"{commit}:./{file}")
        for file in files
        if re.fullmatch(r"queries/[^/]+\.sql", file)
    }
    queries = [
        query for path, text in texts.items() for query in read_queries(text, path, texts.get).values()
    ]
    written = Written([], [], {})
    if "queries/proven.json" in files:
        written = decode_written(read_git("show", f"{commit}:./queries/proven.json").encode())
    names = {Path(f).stem for f in files if re.fullmatch(r"migrations/.*(?<!\.rollback)\.sql", f)}
    return Release(revision, queries, names, written)


async def read_shape(connection: ScratchConnection, query: Query) -> Shape | asyncpg.PostgresError:
    """Return a statement's types on this schema, or why it does not prepare."""
    try:
        statement = await connection.prepare(query.sql)
    except asyncpg.PostgresError as error:
        return error
    return Shape(
        tuple(type_.name for type_ in statement.get_parameters()),
        tuple((attribute.name, attribute.type.name) for attribute in statement.get_attributes()),
    )


async def check_rollout(config: Config, release: Release, new: Sequence[Query]) -> list[Finding]:
    """Prepare the old release's queries on the new schema; then take the new migrations back one by one
    and prepares the new queries after each. The scratch database is left on the old schema.
    """
    added = [name for name in read_files() if name not in release.migrations]
    found = await find_changed(config, release)
    before = {query.name: await on_own_connection(config, query) for query in release.queries}
    for _ in added:
        (name,) = await rollback(config, 1)
        for query in new:
            shape = await on_own_connection(config, query)
            if isinstance(shape, asyncpg.PostgresError):
                found.append(
                    explain(query, shape, f"a query that outlives the rollback of {name}", warning=True)
                )
    for query in release.queries:
        after = await on_own_connection(config, query)
        found += compare_shapes(query, release.revision, before[query.name], after)
    return found


async def find_changed(config: Config, release: Release) -> list[Finding]:
    """Find what old queries rely on and the new schema has otherwise: an error where it breaks one."""
    connection = await connect(config)
    try:
        footprints = [*release.written.queries.values()]
        now = await read_snapshot(CatalogQueries.bind(connection), footprints)
    finally:
        await connection.close()
    queries = {query.name: query for query in release.queries}
    return [
        find(queries[name], "rollout", f"what {release.revision} relies on", said, warning=not breaks)
        for name, _, said, breaks in compare(release.written, now)
        if name in queries
    ]


async def on_own_connection(config: Config, query: Query) -> Shape | asyncpg.PostgresError:
    """Read a shape on a connection of its own: what one has prepared must not outlive a migration."""
    connection = await connect(config)
    try:
        return await read_shape(connection, query)
    finally:
        await connection.close()


def compare_shapes(
    query: Query,
    revision: str,
    on_new: Shape | asyncpg.PostgresError,
    on_old: Shape | asyncpg.PostgresError,
) -> list[Finding]:
    """Find what differs for an old query on the new schema."""
    if isinstance(on_new, asyncpg.PostgresError):
        return [explain(query, on_new, f"a query of {revision} that prepares on the new schema")]
    if isinstance(on_old, Shape) and on_new != on_old:
        return [find(query, "rollout", f"{revision}: {on_old}", f"on the new schema: {on_new}")]
    return []


def explain(query: Query, error: asyncpg.PostgresError, expected: str, warning: bool = False) -> Finding:
    """Make a finding of PostgreSQL's error, at its place in the SQL."""
    position = getattr(error, "position", None)
    at = find_position(query, int(position)) if position else None
    return find(query, "rollout", expected, f"{error.sqlstate} {error.args[0]}", at, warning)
