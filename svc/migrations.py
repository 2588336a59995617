"""The migrations: what the schema should be beside what was applied, and the runs that bring it there.

yoyo runs them, under an advisory lock, with a checksum of every file that was applied.
"""

import asyncio
import glob
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from svc.config import Config, find_folder
from svc.postgres.pool import Database
from svc.postgres.queries import Queries

LOCK_SECONDS = 600
"""How long a run waits for another one to end."""

NOTICE = 0.001
"""Seconds in which the loop, which stood still, notes that the server has closed an idle connection."""


class Checksum(Struct, frozen=True):
    """A migration that was applied, and the SHA-256 of its file at that time."""

    migration_id: str
    checksum: str


class Place(Struct, frozen=True):
    """Where a migration would make its tables, and who would make them."""

    schema: str | None
    search_path: str
    role: str
    may_create: bool
    is_standby: bool
    is_read_only: bool


class MigrationQueries(Queries, Protocol, file="migrations.sql"):
    """queries/migrations.sql"""

    async def set_lock_timeout(self, *, milliseconds: int) -> None: ...
    async def outlast(self) -> int: ...
    async def describe_place(self) -> Place: ...
    async def lock_migrations(self) -> None: ...
    async def has_checksums(self) -> bool: ...
    async def list_checksums(self) -> list[Checksum]: ...
    async def create_checksum(self, *, migration_id: str, checksum: str) -> None: ...
    async def delete_checksum(self, *, migration_id: str) -> None: ...


def refuse_place(place: Place) -> None:
    """Raise MigrationError where no table can be made, with the reason: yoyo would only miss its own."""
    if place.is_standby:
        raise MigrationError("This server is a standby: migrations are for the primary")
    if place.is_read_only:
        raise MigrationError(
            f"Transactions of {place.role} are read-only here: default_transaction_read_only"
        )
    if place.schema is None:
        raise MigrationError(f"There is no schema to make tables in: search_path is {place.search_path!r}")
    if not place.may_create:
        raise MigrationError(
            f"{place.role} may make no tables in the schema {place.schema}. Its owner says: "
            f'grant create on schema "{place.schema}" to "{place.role}"'
        )


State = Literal["applied", "pending", "edited", "unknown"]


Direction = Literal["apply", "rollback"]


class Migration(Struct, frozen=True):
    """One migration: `edited` since it was applied, or `unknown` to this release, as a newer one's is."""

    id: str
    state: State


class MigrationError(Exception):
    """The migrations cannot be run as they are; the message says which and why."""


def read_files() -> dict[str, str]:
    """Return each migration's checksum, by name, in order. Raises MigrationError for one with no way back."""
    files: dict[str, str] = {}
    for path in sorted(find_folder("migrations").glob("*.sql")):
        if path.name.endswith(".rollback.sql"):
            continue
        if not path.with_suffix(".rollback.sql").exists():
            raise MigrationError(f"{path.stem}: there is no {path.stem}.rollback.sql")
        files[path.stem] = checksum(path)
    return files


def checksum(path: Path) -> str:
    """Return SHA-256 of a file, whatever the line ends of the checkout are."""
    return sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


async def list_migrations(queries: MigrationQueries) -> list[Migration]:
    """Return all migrations, of this release and of the database, in order."""
    files = read_files()
    rows = await queries.list_checksums() if await queries.has_checksums() else []
    applied = {row.migration_id: row.checksum for row in rows}
    return [
        Migration(name, find_state(files.get(name), applied.get(name)))
        for name in sorted(files.keys() | applied.keys())
    ]


def find_state(file: str | None, applied: str | None) -> State:
    """Return how a file and what was applied compare."""
    if file is None:
        return "unknown"
    if applied is None:
        return "pending"
    return "applied" if file == applied else "edited"


async def migrate(config: Config) -> list[str]:
    """Apply what is pending and returns the names. Raises MigrationError, and the database's errors.

    A second run at the same time waits for the first and finds nothing to do.
    """
    async with migration_lock(config) as queries:
        pending, files = select(await list_migrations(queries), "pending"), read_files()
        if not pending:
            return []
        refuse_place(await queries.describe_place())
        with open_yoyo(config) as opened:
            for name in pending:
                run_yoyo(*opened, name, "apply")
                await asyncio.sleep(NOTICE)
                await queries.create_checksum(migration_id=name, checksum=files[name])
        return pending


async def rollback(config: Config, count: int) -> list[str]:
    """Take the last `count` migrations back and returns the names. Raises as `migrate` does."""
    async with migration_lock(config) as queries:
        last = select(await list_migrations(queries), "applied", "unknown")[-count:][::-1]
        files = read_files()
        if not last:
            return []
        with open_yoyo(config) as opened:
            for name in last:
                if name not in files:
                    raise MigrationError(f"{name}: only the release that brought it can take it back")
                # Forgotten first: a run that dies in between leaves what the next `migrate` mends.
                await queries.delete_checksum(migration_id=name)
                try:
                    run_yoyo(*opened, name, "rollback")
                    await asyncio.sleep(NOTICE)
                except MigrationError:
                    await queries.create_checksum(migration_id=name, checksum=files[name])
                    raise
        return last


def select(migrations: list[Migration], *states: State) -> list[str]:
    """Return the names of those in one of the states. Raises MigrationError where any file was edited."""
    if edited := [migration.id for migration in migrations if migration.state == "edited"]:
        raise MigrationError(f"Edited after it was applied: {', '.join(edited)}")
    return [migration.id for migration in migrations if migration.state in states]


@contextmanager
def open_yoyo(config: Config) -> Generator[tuple[Any, Any]]:
    """Give a connection of yoyo's, and all migrations there are. Raises MigrationError.

    Its own lock is a row that a killed run leaves behind; under the advisory lock it can only be stale.
    """
    # Imported here: it and psycopg take memory and time that a serving process has no use for.
    yoyo: Any = import_module("yoyo")
    psycopg: Any = import_module("psycopg")
    try:
        # In libpq's own words: yoyo leaves a database's name as it is escaped, and knows of one host.
        parameters = psycopg.conninfo.conninfo_to_dict(str(config.database_url))
        if "dbname" not in parameters:
            # yoyo would ask for one without a name, and not for what libpq chooses.
            with psycopg.connect(str(config.database_url)) as connection:
                parameters["dbname"] = connection.info.dbname
        url = f"postgresql+psycopg:///?{urlencode(parameters, quote_via=quote)}"
        with yoyo.get_backend(url) as backend:
            backend.connection.prepare_threshold = None  # a pooler gives each transaction another server
            backend.break_lock()
            backend.ensure_internal_schema_updated()
            yield backend, yoyo.read_migrations(glob.escape(str(find_folder("migrations"))))
    except psycopg.Error as error:
        raise MigrationError(str(error)) from None


def run_yoyo(backend: Any, migrations: Any, name: str, direction: Direction) -> None:
    """Has yoyo apply or take back one migration, unless it remembers that it has. Raises MigrationError."""
    told = partial(warn, name)
    backend.connection.add_notice_handler(told)
    try:
        choose = backend.to_apply if direction == "apply" else backend.to_rollback
        for migration in choose(migrations.filter(partial(has_id, name))):
            run_whole(backend, migration, direction)
    except (backend.DatabaseError, import_module("yoyo").exceptions.BadMigration) as error:
        raise MigrationError(f"{name}: {error}") from None
    finally:
        backend.connection.remove_notice_handler(told)


def warn(name: str, notice: Any) -> None:
    """Say what a migration warns of, as of rows that break a constraint which is not valid for them yet."""
    if notice.severity_nonlocalized == "WARNING":
        print(f"{name}: {notice.message_primary}", file=sys.stderr)


def run_whole(backend: Any, migration: Any, direction: Direction) -> None:
    """Run a migration and note that it was run, in one transaction: yoyo takes three, and may die in between.

    One that says `transactional: false` cannot be so: it must be one that may be run again.
    """
    migration.load()
    if not migration.use_transactions:
        (backend.apply_one if direction == "apply" else backend.rollback_one)(migration)
        return
    with backend.transaction():
        migration.process_steps(backend, direction)
        backend.log_migration(migration, direction)
        note = backend.mark_one if direction == "apply" else backend.unmark_one
        note(migration, log=False)


def has_id(name: str, migration: Any) -> bool:
    """Return whether a migration of yoyo's is the one of that name."""
    return bool(migration.id == name)


async def read_status(config: Config) -> list[Migration]:
    """Return all migrations and their states. Takes no lock and changes nothing."""
    database = Database(config)
    try:
        return await list_migrations(MigrationQueries.bind(database))
    finally:
        await database.close()


@asynccontextmanager
async def migration_lock(config: Config) -> AsyncGenerator[MigrationQueries]:
    """Give queries on a connection of their own, while a transaction on another one holds the lock.

    A lock of the transaction and not of the session, so that it holds through PgBouncer.
    """
    database = Database(msgspec.structs.replace(config, query_timeout=LOCK_SECONDS + 10, pool_size=2))
    try:
        async with database.transaction(MigrationQueries) as lock:
            await lock.set_lock_timeout(milliseconds=LOCK_SECONDS * 1000)
            await lock.outlast()
            await lock.lock_migrations()
            yield MigrationQueries.bind(database)
    finally:
        await database.close()
