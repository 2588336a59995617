"""`svc seed`: users that are made up inside PostgreSQL, the same ones for the same two numbers."""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

import msgspec
from argon2.low_level import Type, hash_secret

from svc.config import Config
from svc.http.resource import Command, CommandError, Resource, Service, read_positive
from svc.migrations import MigrationQueries, list_migrations
from svc.postgres.pool import Database
from svc.postgres.queries import Queries

PASSWORD = "correct horse battery staple"
"""The password of users 1, 1001, 2001 and so on. That of the others is unknown, to us as well."""

LARGEST = 1_000_000_000
"""More users than this would overflow the arithmetic in queries/seed.sql."""

CHUNK = 50_000
"""Users made by one statement: about a second's work."""

QUERY_SECONDS = 3600
"""How long one statement may take, a commit of very many rows included."""

LOCK_MILLISECONDS = 10_000
"""How long to wait for others that use the table."""

BAR = 40


class SeedQueries(Queries, Protocol, file="seed.sql"):
    """queries/seed.sql"""

    async def set_settings(self, *, lock_milliseconds: int) -> None: ...
    async def lock_users(self) -> None: ...
    async def has_users(self) -> bool: ...
    async def is_referred_to(self) -> bool: ...
    async def renew_users(self) -> None: ...
    async def seed_users(self, *, first: int, last: int, total: int, seed: int, known_hash: str) -> None: ...
    async def set_last_id(self, *, id: int) -> None: ...
    async def analyze_users(self) -> None: ...


async def seed(config: Config, count: int, number: int) -> None:
    """Fill the empty table with `count` users, at most LARGEST: all, or on any interruption none.

    The same `count` and `number` give the same rows in every column; with another `count`, users are the same
    but for when they came. Raises CommandError, and the database's errors.
    """
    database = Database(msgspec.structs.replace(config, query_timeout=QUERY_SECONDS, pool_size=1))
    try:
        async with database.transaction(SeedQueries, MigrationQueries) as (queries, migrations):
            await check_schema(migrations)
            await queries.set_settings(lock_milliseconds=LOCK_MILLISECONDS)
            await queries.lock_users()
            if await queries.has_users():
                raise CommandError("There are users already: only an empty table can be seeded")
            if not await queries.is_referred_to():
                await queries.renew_users()
            await make_users(queries, count, number)
            await queries.set_last_id(id=count)
            await queries.analyze_users()
    finally:
        await database.close()


async def check_schema(queries: MigrationQueries) -> None:
    """Check the migrations. Raises CommandError where the schema is not this release's."""
    migrations = await list_migrations(queries)
    if behind := [each for each in migrations if each.state in ("pending", "edited")]:
        listed = ", ".join(f"{each.id} is {each.state}" for each in behind)
        raise CommandError(f"The schema is behind: {listed}; run `svc migrate` first")


async def make_users(queries: SeedQueries, count: int, number: int) -> None:
    """Make all users, in chunks, at least ten where there are so many, with the progress on stderr."""
    known_hash = hash_known_password(number)
    step = min(CHUNK, -(-count // 10))
    show_progress(0, 0, count)
    try:
        for before in range(0, count, step):
            last = min(before + step, count)
            await queries.seed_users(
                first=before + 1, last=last, total=count, seed=number, known_hash=known_hash
            )
            show_progress(before, last, count)
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def hash_known_password(number: int) -> str:
    """Return the PHC string of PASSWORD, at OWASP's floor, Config's default; the seed makes the salt."""
    floor = Config()
    return hash_secret(
        PASSWORD.encode(),
        salt=sha256(f"bareline seed {number}".encode()).digest()[:16],
        time_cost=floor.hash_passes,
        memory_cost=floor.hash_memory,
        parallelism=1,
        hash_len=32,
        type=Type.ID,
    ).decode()


def show_progress(before: int, done: int, total: int) -> None:
    """Show a bar on a terminal; elsewhere a line for each tenth that is reached."""
    text = f"{done / total:.0%}, {done:,} of {total:,} users"
    if sys.stderr.isatty():
        print(f"\r[{'#' * (BAR * done // total):<{BAR}}] {text}", end="", file=sys.stderr, flush=True)
    elif done * 10 // total > before * 10 // total:
        print(text, file=sys.stderr, flush=True)


def configure_seed(parser: argparse.ArgumentParser, resources: Sequence[Resource]) -> None:
    """Add how many, and which."""
    parser.add_argument("count", type=read_user_count, metavar="N", help="how many")
    parser.add_argument("--seed", type=read_positive, default=1, help="another number makes other users")
    parser.set_defaults(run=run_seed)


def read_user_count(text: str) -> int:
    """Return as many users as can be made up."""
    if re.fullmatch(r"[1-9][0-9]{0,9}", text) and int(text) <= LARGEST:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a number from 1 to {LARGEST}")


def run_seed(config: Config, options: argparse.Namespace) -> int:
    """Run `svc seed`."""
    started = time.monotonic()
    asyncio.run(seed(config, options.count, options.seed))
    print(f"{options.count:,} users in {time.monotonic() - started:.1f} s")
    print(f"Users 1, 1001, 2001 and so on have the password: {PASSWORD}")
    return 0


def build(service: Service) -> Resource:
    """Return the command that fills the empty table."""
    command = Command("seed", "fill the empty table of users with made-up ones", configure_seed)
    return Resource(offline_queries=[SeedQueries], commands=[command])
