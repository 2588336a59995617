"""The command line: `svc serve | check | migrate`, and what the resources bring: `svc keys`, `svc seed`."""

import argparse
import asyncio
import codecs
import locale
import os
import re
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from svc.app import build_resources, create_app
from svc.check.wiring import WiringError
from svc.config import VARIABLES, Config, ConfigError, load
from svc.database_url import DatabaseUrl
from svc.embedded import EmbeddedError, EmbeddedServer
from svc.http.resource import CommandError, Outline, Resource, read_positive
from svc.migrations import MigrationError, migrate, read_status, rollback
from svc.postgres.errors import DRIVER_ERRORS, DatabaseError
from svc.postgres.statements import QueryError

KNOWN_ERRORS = (
    CommandError,
    ConfigError,
    EmbeddedError,
    MigrationError,
    QueryError,
    WiringError,
)
"""Failures that have a name: the message says all."""

Run = Callable[[Config, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 1 for a failure that has a name and 2 for a wrong command line."""
    if arguments is None:
        insist_on_utf8()
    # A terminated process must still stop the server that it embeds: `finally` runs for exceptions only.
    signal.signal(signal.SIGTERM, partial(exit_quietly, 128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, partial(exit_quietly, 128 + signal.SIGINT))
    signal.signal(signal.SIGHUP, terminate)
    try:
        options = make_parser(build_resources(Outline(Config()))).parse_args(arguments)
        run: Run = options.run
        config = load()
        if run is run_check:  # it brings its own database
            return run(config, options)
        options.embedded = config.database_url is None
        with find_database(config, migrated=run is not run_migrate) as config:
            return run(config, options)
    except KNOWN_ERRORS as error:
        return fail(str(error))
    except (DatabaseError, *DRIVER_ERRORS) as error:
        return fail(f"The database cannot be used: {error.__cause__ or error}")
    except KeyboardInterrupt:
        return 130


def insist_on_utf8() -> None:
    """Begin anew in UTF-8 mode (PEP 540) where the locale has another encoding: yoyo reads files by it."""
    is_utf8 = codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
    mode = ["-X", "utf8"]
    if not is_utf8 and sys.orig_argv[1:3] != mode:
        os.execv(sys.executable, [sys.executable, *mode, *sys.orig_argv[1:]])  # noqa: S606


def fail(message: str) -> int:
    """Say what is wrong, lines to paste as they are; return the exit code."""
    for line in message.splitlines():
        print(line if line.startswith(" ") else f"svc: {line}", file=sys.stderr)
    return 1


def exit_quietly(code: int, number: int, frame: FrameType | None) -> None:
    """Turn a signal that asks us to end into an exception; the next ones must not break the way out.

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
    """Raise it."""
    raise error


def terminate(number: int, frame: FrameType | None) -> None:
    """Turn a closed terminal into the signal that uvicorn answers gracefully."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def find_database(config: Config, migrated: bool) -> Generator[Config]:
    """Give the configuration with a database in it: the one it names, or the embedded one, up to date."""
    if config.database_url:
        yield config
        return
    with EmbeddedServer(Path(config.data_dir)) as server:
        embedded = msgspec.structs.replace(config, database_url=DatabaseUrl(server.url))
        if migrated:
            asyncio.run(migrate(embedded))
        yield embedded


def make_parser(resources: Sequence[Resource]) -> argparse.ArgumentParser:
    """Return a parser of all commands and their options."""
    parser = argparse.ArgumentParser(
        prog="svc",
        description="Bareline, a users service with no ORM.",
        epilog="Environment: " + ", ".join(VARIABLES.values()) + ". See docs/configuration.md.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    configure_serve(commands.add_parser("serve", help="run the service"))
    configure_check(commands.add_parser("check", help="prove that SQL, signatures, structs and schema agree"))
    configure_migrate(commands.add_parser("migrate", help="bring the database's schema up to date"))
    for command in (command for resource in resources for command in resource.commands):
        command.configure(commands.add_parser(command.name, help=command.help), resources)
    return parser


def configure_serve(parser: argparse.ArgumentParser) -> None:
    """Add where to listen, how many workers, and what to do without."""
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=read_port, default=8000)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--workers", type=read_positive, default=1)
    choice.add_argument("--reload", action="store_true", help="start anew when a .py or .sql file changes")
    for lever, what in (("short-cut", "short cuts"), ("batching", "batches")):
        parser.add_argument(
            f"--no-{lever}", action="store_true", help=f"serve without {what} (docs/fast-path.md)"
        )
    parser.set_defaults(run=run_serve)


def configure_check(parser: argparse.ArgumentParser) -> None:
    """Add how to print, and another release to check a rollout over."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--against", metavar="REV", help="also check a rollout over this git revision")
    parser.add_argument("--accept", action="store_true", help="let marks of secret columns go")
    parser.set_defaults(run=run_check)


def configure_migrate(parser: argparse.ArgumentParser) -> None:
    """Add the other two things to do with migrations."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--status", action="store_true", help="list migrations; exit code 1 unless all are applied"
    )
    choice.add_argument("--rollback", type=read_positive, metavar="N", help="take the last N back")
    parser.set_defaults(run=run_migrate)


def read_port(text: str) -> int:
    """Return a TCP port; 0 for any that is free."""
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError("expected a port from 0 to 65535")


def run_serve(config: Config, options: argparse.Namespace) -> int:
    """Run `svc serve`."""
    from svc.server import ServeError, serve  # here: other commands start quicker without a server

    signal.signal(signal.SIGTERM, partial(exit_quietly, 0))  # a service has no end of its own
    config = msgspec.structs.replace(
        config,
        short_cut=config.short_cut and not options.no_short_cut,
        batching=config.batching and not options.no_batching,
    )
    greet = partial(welcome, config) if options.embedded else None
    used = f"embedded PostgreSQL in {config.data_dir}" if options.embedded else repr(config.database_url)
    try:
        return serve(
            partial(create_app, config), options.host, options.port, database=used, greet=greet,
            workers=options.workers, reload=options.reload, keep_alive=config.keep_alive,
        )  # fmt: skip
    except ServeError as error:
        return fail(str(error))


def welcome(config: Config, address: str) -> str:
    """Return what the resources say on the first start of an embedded database, if it is one."""
    resources = build_resources(Outline(config))
    said = [resource.welcome(config, resources, address) for resource in resources if resource.welcome]
    return "\n".join(text for text in said if text)


def run_migrate(config: Config, options: argparse.Namespace) -> int:
    """Run `svc migrate`."""
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


def run_check(config: Config, options: argparse.Namespace) -> int:
    """Run `svc check`."""
    from svc.check.command import check, scratch_database
    from svc.check.rollout import RolloutError

    try:
        with scratch_database() as scratch:
            resources = build_resources(Outline(scratch))
            checking = check(scratch, resources, options.against, accept=options.accept)
            report = asyncio.run(checking)
    except RolloutError as error:
        return fail(str(error))
    print(msgspec.json.encode(report).decode() if options.json else report)
    return int(not report.agrees)


if __name__ == "__main__":
    sys.exit(main())
