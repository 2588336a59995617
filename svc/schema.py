"""What the schema should be (migrations/*.sql) beside what was applied, by name and checksum."""

from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from svc.config import find_folder
from svc.sql import Queries


class Checksum(Struct, frozen=True):
    """A migration that was applied, and the SHA-256 of its file at that time."""

    migration_id: str
    checksum: str


class MigrationQueries(Queries, Protocol, file="migrations.sql"):
    """queries/migrations.sql"""

    async def set_lock_timeout(self, *, milliseconds: int) -> None: ...
    async def lock_migrations(self) -> None: ...
    async def has_checksums(self) -> bool: ...
    async def list_checksums(self) -> list[Checksum]: ...
    async def create_checksum(self, *, migration_id: str, checksum: str) -> None: ...
    async def delete_checksum(self, *, migration_id: str) -> None: ...


State = Literal["applied", "pending", "edited", "unknown"]


class Migration(Struct, frozen=True):
    """One migration: `edited` since it was applied, or `unknown` to this release, as a newer one's is."""

    id: str
    state: State


class MigrationError(Exception):
    """The migrations cannot be run as they are; the message says which and why."""


def read_files() -> dict[str, str]:
    """The checksum of each migration, by name, in order. Raises MigrationError for one with no way back."""
    files: dict[str, str] = {}
    for path in sorted(find_folder("migrations").glob("*.sql")):
        if path.name.endswith(".rollback.sql"):
            continue
        if not path.with_suffix(".rollback.sql").exists():
            raise MigrationError(f"{path.stem}: there is no {path.stem}.rollback.sql")
        files[path.stem] = checksum(path)
    return files


def checksum(path: Path) -> str:
    """SHA-256 of a file, whatever the line ends of the checkout are."""
    return sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


async def list_migrations(queries: MigrationQueries) -> list[Migration]:
    """All migrations, of this release and of the database, in order."""
    files = read_files()
    rows = await queries.list_checksums() if await queries.has_checksums() else []
    applied = {row.migration_id: row.checksum for row in rows}
    return [
        Migration(name, find_state(files.get(name), applied.get(name)))
        for name in sorted(files.keys() | applied.keys())
    ]


def find_state(file: str | None, applied: str | None) -> State:
    """How a file and what was applied compare."""
    if file is None:
        return "unknown"
    if applied is None:
        return "pending"
    return "applied" if file == applied else "edited"
