"""The command line: `svc serve | check | migrate | seed | keys`."""

import argparse
import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import asyncpg
import msgspec

from svc.accounts.keys import KEPT, SCOPES, ApiKeyQueries, create_key
from svc.config import VARIABLES, Config, ConfigError, DatabaseUrl, load
from svc.http.problems import Problem
from svc.postgres.embedded import EmbeddedError, EmbeddedServer
from svc.postgres.migrations import MigrationError, migrate, read_status, rollback
from svc.postgres.pool import Database
from svc.postgres.statements import QueryError
from svc.users.seed import LARGEST, PASSWORD, SeedError, seed

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code is 1 for a failure that has a name and 2 for a wrong command line."""
    options = make_parser().parse_args(arguments)
    # A terminated process must still stop the server that it embeds: `finally` runs for exceptions only.
    signal.signal(signal.SIGTERM, partial(exit_quietly, 128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, partial(exit_quietly, 128 + signal.SIGINT))
    signal.signal(signal.SIGHUP, terminate)
    try:
        command: Callable[[Config, argparse.Namespace], int] = options.command
        config = load()
        if command is run_check:  # it brings its own database
            return command(config, options)
        options.embedded = config.database_url is None
        with find_database(config, migrated=command is not run_migrate) as config:
            return command(config, options)
    except (ConfigError, EmbeddedError, MigrationError, QueryError, SeedError) as error:
        return fail(str(error))
    except Problem as problem:
        return fail(problem.detail)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return fail(f"The database cannot be used: {error}")
    except KeyboardInterrupt:
        return 130


def fail(message: str) -> int:
    """Says what is wrong."""
    for line in message.splitlines():
        print(f"svc: {line}", file=sys.stderr)
    return 1


def exit_quietly(code: int, number: int, frame: FrameType | None) -> None:
    """A signal that asks us to end, as an exception; the next ones must not break the way out.

    An event loop raises it between two callbacks: in the middle of one, asyncpg may be at work, and would
    go on as if a statement had been answered with nothing.
    """
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(code)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise error from None
    loop.call_soon_threadsafe(throw, error)


def throw(error: BaseException) -> NoReturn:
    """Raises it."""
    raise error


def terminate(number: int, frame: FrameType | None) -> None:
    """A closed terminal, as the signal that uvicorn answers gracefully."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def find_database(config: Config, migrated: bool) -> Generator[Config]:
    """The configuration with a database in it: the one it names, or the embedded one, up to date."""
    if config.database_url:
        yield config
        return
    with EmbeddedServer(Path(config.data_dir)) as server:
        embedded = msgspec.structs.replace(config, database_url=DatabaseUrl(server.url))
        if migrated:
            asyncio.run(migrate(embedded))
        yield embedded


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="svc",
        description="Bareline, a users service with no ORM.",
        epilog="Environment: " + ", ".join(VARIABLES.values()) + ". See the README.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    parser_ = commands.add_parser("serve", help="run the service")
    parser_.add_argument("--host", default="127.0.0.1")
    parser_.add_argument("--port", type=port, default=8000)
    parser_.add_argument("--workers", type=positive, default=1)
    for lever, what in (("short-cut", "short cuts"), ("batching", "batches")):
        parser_.add_argument(
            f"--no-{lever}", action="store_true", help=f"serve without {what} (docs/fast-path.md)"
        )
    parser_.set_defaults(command=run_serve)

    parser_ = commands.add_parser("check", help="prove that SQL, signatures, structs and schema agree")
    parser_.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser_.add_argument("--against", metavar="REV", help="also check a rollout over this git revision")
    parser_.set_defaults(command=run_check)

    parser_ = commands.add_parser("migrate", help="bring the database's schema up to date")
    choice = parser_.add_mutually_exclusive_group()
    choice.add_argument(
        "--status", action="store_true", help="list migrations; exit code 1 unless all are applied"
    )
    choice.add_argument("--rollback", type=positive, metavar="N", help="take the last N back")
    parser_.set_defaults(command=run_migrate)

    parser_ = commands.add_parser("seed", help="fill the empty table of users with made-up ones")
    parser_.add_argument("count", type=user_count, metavar="N", help="how many")
    parser_.add_argument("--seed", type=positive, default=1, help="another number makes other users")
    parser_.set_defaults(command=run_seed)

    keys = commands.add_parser("keys", help="API keys").add_subparsers(required=True, metavar="command")
    parser_ = keys.add_parser("create", help="make a key; it is shown once, on the last line of stdout")
    parser_.add_argument("--name", required=True)
    parser_.add_argument("--scopes", type=scopes, default=list(SCOPES), metavar="A,B", help=", ".join(SCOPES))
    parser_.add_argument("--expires", type=duration, metavar="90d", help="days (d), hours (h) or minutes (m)")
    parser_.set_defaults(command=run_create_key)
    keys.add_parser("list", help="all keys").set_defaults(command=run_list_keys)
    parser_ = keys.add_parser("revoke", help="end a key")
    parser_.add_argument("id", type=positive)
    parser_.set_defaults(command=run_revoke_key)
    return parser


def port(text: str) -> int:
    """A TCP port; 0 for any that is free."""
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError("expected a port from 0 to 65535")


def positive(text: str) -> int:
    """A number from 1 to int8's largest."""
    if re.fullmatch(r"[1-9][0-9]{0,18}", text) and int(text) < 2**63:
        return int(text)
    raise argparse.ArgumentTypeError("expected a number from 1 up")


def user_count(text: str) -> int:
    """As many users as can be made up."""
    if re.fullmatch(r"[1-9][0-9]{0,9}", text) and int(text) <= LARGEST:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a number from 1 to {LARGEST}")


def scopes(text: str) -> list[str]:
    """Scopes, separated by commas."""
    names = text.split(",")
    if unknown := [name for name in names if name not in SCOPES]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(SCOPES)}")
    return names


def duration(text: str) -> timedelta:
    """90d, 12h, 30m."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([dhm])", text)
    if not match:
        raise argparse.ArgumentTypeError("expected something like 90d, 12h or 30m")
    unit = {"d": "days", "h": "hours", "m": "minutes"}[match[2]]
    return timedelta(**{unit: int(match[1])})


def run_serve(config: Config, options: argparse.Namespace) -> int:
    """`svc serve`"""
    from svc.http.server import ServeError, serve

    signal.signal(signal.SIGTERM, partial(exit_quietly, 0))  # a service has no end of its own
    config = msgspec.structs.replace(
        config,
        short_cut=config.short_cut and not options.no_short_cut,
        batching=config.batching and not options.no_batching,
    )
    try:
        return serve(config, options.host, options.port, options.workers, embedded=options.embedded)
    except ServeError as error:
        return fail(str(error))


def run_migrate(config: Config, options: argparse.Namespace) -> int:
    """`svc migrate`"""
    if options.status:
        migrations = asyncio.run(read_status(config))
        for migration in migrations:
            print(f"{migration.state:8} {migration.id}")
        return int(any(migration.state in ("pending", "edited") for migration in migrations))
    if options.rollback:
        names, word = asyncio.run(rollback(config, options.rollback)), "rolled back"
    else:
        names, word = asyncio.run(migrate(config)), "applied"
    print("\n".join(f"{word} {name}" for name in names) or "nothing to do")
    return 0


def run_seed(config: Config, options: argparse.Namespace) -> int:
    """`svc seed`"""
    started = time.monotonic()
    asyncio.run(seed(config, options.count, options.seed))
    print(f"{options.count:,} users in {time.monotonic() - started:.1f} s")
    print(f"Users 1, 1001, 2001 and so on have the password: {PASSWORD}")
    return 0


def run_check(config: Config, options: argparse.Namespace) -> int:
    """`svc check`"""
    from svc.check.command import check, scratch_database
    from svc.check.rollout import RolloutError

    try:
        with scratch_database() as scratch:
            report = asyncio.run(check(scratch, options.against))
    except RolloutError as error:
        return fail(str(error))
    print(msgspec.json.encode(report).decode() if options.json else report)
    return int(not report.agrees)


def run_create_key(config: Config, options: argparse.Namespace) -> int:
    """`svc keys create`"""
    expires_at = datetime.now(UTC) + options.expires if options.expires else None
    print(asyncio.run(with_keys(config, partial(create_key, options.name, options.scopes, expires_at))))
    return 0


def run_list_keys(config: Config, options: argparse.Namespace) -> int:
    """`svc keys list`"""
    listed = asyncio.run(with_keys(config, lambda keys: keys.list_api_keys()))
    row = "{:>4}  {:20}  {:25}  {:17}  {:17}  {}".format
    print(row("id", "name", "scopes", "created", "expires", "revoked").rstrip())
    for key in listed:
        moments = [
            moment.strftime("%Y-%m-%d %H:%MZ") if moment else "never"
            for moment in (key.created_at, key.expires_at, key.revoked_at)
        ]
        print(row(key.id, key.name, ",".join(key.scopes), *moments))
    return 0


def run_revoke_key(config: Config, options: argparse.Namespace) -> int:
    """`svc keys revoke`"""
    if asyncio.run(with_keys(config, lambda keys: keys.revoke_api_key(id=options.id))):
        print(f"revoked {options.id}; running services refuse it within {KEPT:g} seconds")
        return 0
    return fail(f"there is no key {options.id} that could be revoked")


async def with_keys(config: Config, use: Callable[[ApiKeyQueries], Coroutine[Any, Any, T]]) -> T:
    """Runs one query on the keys."""
    database = Database(config)
    try:
        return await use(ApiKeyQueries.bind(database))
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(main())
