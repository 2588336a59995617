"""`svc keys`, and the first key of a new database."""

import argparse
import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from svc.accounts.keys import KEY_CACHE_TTL, ApiKeyQueries, create_key, hash_token, make_token
from svc.config import Config
from svc.http.resource import Command, CommandError, Resource, collect_scopes, read_positive
from svc.postgres.pool import Database
from svc.postgres.queries import Queries

T = TypeVar("T")
Q = TypeVar("Q", bound=Queries)


class KeyCommands(Queries, Protocol, file="key_commands.sql"):
    """queries/key_commands.sql"""

    async def grant_api_key(self, *, id: int, scopes: list[str]) -> int: ...
    async def rotate_api_key(self, *, id: int, key_hash: bytes, until: datetime) -> int | None: ...


def configure_keys(parser: argparse.ArgumentParser, resources: Sequence[Resource]) -> None:
    """Add `create`, `list`, `grant`, `rotate` and `revoke`."""
    scopes = collect_scopes(resources)
    commands = parser.add_subparsers(required=True, metavar="command")
    create = commands.add_parser("create", help="make a key; it is shown once, on the last line of stdout")
    create.add_argument("--name", required=True)
    add_scopes(create, scopes)
    create.add_argument(
        "--expires", type=read_duration, metavar="90d", help="days (d), hours (h) or minutes (m)"
    )
    create.set_defaults(run=run_create)
    commands.add_parser("list", help="all keys").set_defaults(run=run_list)
    grant = commands.add_parser("grant", help="add scopes to a key")
    grant.add_argument("id", type=read_positive)
    add_scopes(grant, scopes)
    grant.set_defaults(run=run_grant)
    rotate = commands.add_parser("rotate", help="make a key in the place of one, which ends after a while")
    rotate.add_argument("id", type=read_positive)
    rotate.add_argument(
        "--overlap", type=read_overlap, default="1d", metavar="1d", help="how long both let in; 0: not at all"
    )
    rotate.set_defaults(run=run_rotate)
    revoke = commands.add_parser("revoke", help="end a key")
    revoke.add_argument("id", type=read_positive)
    revoke.set_defaults(run=run_revoke)


def add_scopes(parser: argparse.ArgumentParser, scopes: Sequence[str]) -> None:
    """Add `--scopes`: what a key may do is said, and never all by leaving it out."""
    parser.add_argument(
        "--scopes",
        type=partial(read_scopes, scopes),
        required=True,
        metavar="A,B",
        help=f"{', '.join(scopes)}; or all",
    )


KEYS = Command("keys", "API keys", configure_keys)


def read_scopes(known: Sequence[str], text: str) -> list[str]:
    """Return scopes that are separated by commas."""
    names = [*known] if text == "all" else text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def read_duration(text: str) -> timedelta:
    """Read 90d, 12h, 30m."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([dhm])", text)
    if not match:
        raise argparse.ArgumentTypeError("expected something like 90d, 12h or 30m")
    unit = {"d": "days", "h": "hours", "m": "minutes"}[match[2]]
    return timedelta(**{unit: int(match[1])})


def read_overlap(text: str) -> timedelta:
    """Read the same, or 0."""
    return timedelta() if text == "0" else read_duration(text)


def run_create(config: Config, options: argparse.Namespace) -> int:
    """Print a new key."""
    expires_at = datetime.now(UTC) + options.expires if options.expires else None
    print(run_on_keys(config, partial(create_key, options.name, options.scopes, expires_at)))
    return 0


def run_list(config: Config, options: argparse.Namespace) -> int:
    """Print a table of all keys."""
    listed = run_on_keys(config, lambda keys: keys.list_api_keys())
    row = "{:>4}  {:20}  {:25}  {:17}  {:17}  {}".format
    print(row("id", "name", "scopes", "created", "expires", "revoked").rstrip())
    for key in listed:
        moments = [
            moment.strftime("%Y-%m-%d %H:%MZ") if moment else "never"
            for moment in (key.created_at, key.expires_at, key.revoked_at)
        ]
        print(row(key.id, key.name, ",".join(key.scopes), *moments))
    return 0


def run_revoke(config: Config, options: argparse.Namespace) -> int:
    """End a key. Raises CommandError where there is none that could be ended."""
    if run_on_keys(config, lambda keys: keys.revoke_api_key(id=options.id)):
        print(f"revoked {options.id}; running services refuse it within {KEY_CACHE_TTL:g} seconds")
        return 0
    raise CommandError(f"there is no key {options.id} that could be revoked")


def run_grant(config: Config, options: argparse.Namespace) -> int:
    """Add scopes to a key. Raises CommandError where there is none that may be used."""
    if run_on(config, KeyCommands, partial(grant_key, options.id, options.scopes)):
        print(f"granted {','.join(options.scopes)} to {options.id}, within {KEY_CACHE_TTL:g} seconds")
        return 0
    raise CommandError(f"there is no key {options.id} that may be used")


def run_rotate(config: Config, options: argparse.Namespace) -> int:
    """Print a key in the place of one, which ends. Raises CommandError where there is none to be used."""
    until = datetime.now(UTC) + options.overlap
    token = run_on(config, KeyCommands, partial(rotate_key, options.id, until))
    if token is None:
        raise CommandError(f"there is no key {options.id} that may be used")
    print(f"key {options.id} ends at {until:%Y-%m-%d %H:%MZ}; in its place:")
    print(token)
    return 0


async def grant_key(id_: int, scopes: list[str], queries: KeyCommands) -> int:
    """Add scopes; return 0 where there is no such key."""
    return await queries.grant_api_key(id=id_, scopes=scopes)


async def rotate_key(id_: int, until: datetime, queries: KeyCommands) -> str | None:
    """Store a new key in the place of one, which ends; return the token, None where there is no such key."""
    token = make_token()
    made = await queries.rotate_api_key(id=id_, key_hash=hash_token(token.encode()), until=until)
    return token if made else None


def run_on_keys(config: Config, use: Callable[[ApiKeyQueries], Coroutine[Any, Any, T]]) -> T:
    """Run something on the keys of a database, and return what it returns."""
    return run_on(config, ApiKeyQueries, use)


def run_on(config: Config, kind: type[Q], use: Callable[[Q], Coroutine[Any, Any, T]]) -> T:
    """Run something on queries of a database, and return what it returns."""

    async def run() -> T:
        database = Database(config)
        try:
            return await use(kind.bind(database))
        finally:
            await database.close()

    return asyncio.run(run())


WELCOME = """
This is a new database, so here is its first API key. It is shown once; `svc keys create` makes more.

    export KEY={token}
"""


def welcome(config: Config, resources: Sequence[Resource], address: str) -> str | None:
    """Make the first key, with all scopes, and return what to do with it; None where there are keys."""

    async def create_first(keys: ApiKeyQueries) -> str | None:
        if await keys.list_api_keys():
            return None
        return await create_key("first", collect_scopes(resources), None, keys)

    token = run_on_keys(config, create_first)
    if token is None:
        return None
    examples = [resource.examples.format(address=address) for resource in resources if resource.examples]
    return "\n".join([WELCOME.format(token=token), *examples])
