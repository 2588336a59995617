"""One connection to PostgreSQL: it runs the queries of the contract, each prepared once, and nothing else.

What is sent is what svc/postgres/statements.py has read from a .sql file for this very Query object: no copy
of one, no change of one and no other text gets through. It is looked up as a statement is prepared.

No reset query runs when it comes back from one user and goes to the next. The price is that nothing may
leave session state behind: no `set` but `set local`, no session advisory locks, no `listen`.
"""

import asyncio
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import asyncpg
import msgspec
from asyncpg.prepared_stmt import PreparedStatement

from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.postgres.queries import Row, Signature
from svc.postgres.statements import NO_TEXT, Query, find_text

C = TypeVar("C", bound="QueryConnection")

CONNECTION_LOST_ERRORS = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""Errors after which a connection is of no use; its own timeout is an OSError too, and is not one of them."""

OUTCOME_UNKNOWN_ERRORS = (asyncpg.PostgresConnectionError, asyncpg.InternalClientError, OSError)
"""Errors by which a statement that was sent may end without a word from PostgreSQL."""

CLOSE_TIMEOUT = 2.0
"""Seconds that one connection may take to close."""

STALE_PLAN_ERRORS = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""What a statement that was prepared before a change of the schema raises, before anything was done."""


KEEP_ALIVE = {
    "keepalives": (socket.SOL_SOCKET, "SO_KEEPALIVE"),
    "keepalives_idle": (socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
    "keepalives_interval": (socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
    "keepalives_count": (socket.IPPROTO_TCP, "TCP_KEEPCNT"),
    "tcp_user_timeout": (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
}
"""libpq's parameters, and the options of a socket that they are; not each system has all."""

OWN_COMMANDS = re.compile(
    r"(BEGIN[A-Z ]*|COMMIT|ROLLBACK|(SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO) __asyncpg_savepoint_\w+__);?"
)
"""What asyncpg's transactions send by a connection's own methods."""

OWN_QUESTIONS = frozenset(["SHOW transaction_isolation;", "SELECT pg_catalog.pg_is_in_recovery()"])
"""What asyncpg asks by them: within a transaction, and of a host among several."""


class QueryConnection(asyncpg.Connection):
    """An asyncpg connection that runs queries of the contract: an Executor.

    It keeps one prepared statement a query. asyncpg's own cache does the same and costs 5 to 8 µs more a
    call (`python -m bench.bound_query`).
    """

    generation = 0
    statements: dict[Query, "PreparedStatement[asyncpg.Record]"]

    def get_reset_query(self) -> str:
        """Return none: see the top of this file."""
        return ""

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """Return the first row, or None."""
        statement = self.statements.get(query) or await self._prepare_query(query)
        try:
            return await statement.fetchrow(*arguments)
        except STALE_PLAN_ERRORS:
            return await (await self._prepare_anew(query)).fetchrow(*arguments)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """Return all rows."""
        statement = self.statements.get(query) or await self._prepare_query(query)
        try:
            return await statement.fetch(*arguments)
        except STALE_PLAN_ERRORS:
            return await (await self._prepare_anew(query)).fetch(*arguments)

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        """Return the number of rows that were changed, from the command tag: `UPDATE 1`."""
        status = await asyncpg.Connection.execute(self, find_text(query), *arguments)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def _prepare_query(self, query: Query) -> "PreparedStatement[asyncpg.Record]":
        statement = self.statements[query] = await asyncpg.Connection.prepare(self, find_text(query))
        return statement

    async def _prepare_anew(self, query: Query) -> "PreparedStatement[asyncpg.Record]":
        """Prepare it after a change of the schema; a transaction has failed by it, and there is no way on."""
        self.statements.clear()
        if self.is_in_transaction():
            raise asyncpg.InvalidCachedStatementError("the schema has changed during a transaction")
        return await self._prepare_query(query)

    async def set_up(self, parameters: Mapping[str, str]) -> None:
        """Begin. Raises asyncpg.InterfaceError for a database that holds no Unicode."""
        self.statements = {}
        encoding = self.get_settings().server_encoding
        if encoding != "UTF8":
            raise asyncpg.InterfaceError(f"its encoding is {encoding}, and the service needs UTF8")
        self.keep_alive(parameters)
        # Out it goes as the server's text, never parsed; in it comes as a checked JsonObject.
        await self.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=encode_json, decoder=msgspec.Raw, format="text"
        )
        await self.set_type_codec(
            "json", schema="pg_catalog", encoder=msgspec.json.encode, decoder=msgspec.Raw, format="binary"
        )

    def keep_alive(self, parameters: Mapping[str, str]) -> None:
        """Have the network tell of a server that is gone, as libpq does (PostgreSQL manual, 34.1.2)."""
        transport: asyncio.Transport = self._transport  # type: ignore[attr-defined]
        wire = transport.get_extra_info("socket")
        if wire.family == socket.AF_UNIX:
            return
        for name, (level, option) in KEEP_ALIVE.items():
            value = int(parameters.get(name, name == "keepalives"))
            if value and hasattr(socket, option):
                wire.setsockopt(level, getattr(socket, option), value)

    async def end_parse(self) -> None:
        """End what the server began when it parsed a statement that was never run: its locks, its snapshot.

        asyncpg sends no Sync behind a Parse, so they stay for as long as the connection lies idle.
        """
        async with self.transaction():
            pass

    async def find_mismatch(self, query: Query, signature: Signature) -> str | None:
        """Prepare a query on the live schema; return what is wrong with it, or None."""
        try:
            statement = await asyncpg.Connection.prepare(self, find_text(query))
        except asyncpg.PostgresError as error:
            return f"{query}: SQLSTATE {error.sqlstate}"
        columns = tuple(attribute.name for attribute in statement.get_attributes())
        if signature.columns not in (None, columns):
            return f"{query}: columns {', '.join(columns)}"
        return None


def refuse(*_: object, **__: object) -> NoReturn:
    """Raise TypeError: nothing sends a text."""
    raise TypeError(NO_TEXT)


class Connection(QueryConnection):
    """The same for a service: all of asyncpg's methods that take a text refuse it, but for asyncpg's own."""

    executemany = fetch = fetchrow = fetchmany = prepare = cursor = refuse
    copy_from_query = copy_from_table = copy_to_table = copy_records_to_table = refuse
    add_listener = remove_listener = refuse

    async def execute(self, query: str, *args: object, **how: Any) -> str:
        """Run a command of a transaction. Raises TypeError for any other text."""
        if args or not OWN_COMMANDS.fullmatch(query):
            refuse()
        return await super().execute(query, **how)

    async def fetchval(self, query: str, *args: object, **how: Any) -> Any:
        """Answer a question of asyncpg's own. Raises TypeError for any other text."""
        if args or query not in OWN_QUESTIONS:
            refuse()
        return await super().fetchval(query, **how)


class UnpreparedConnection(Connection):
    """The same without prepared statements, for poolers that give each transaction another server."""

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """Return the first row, or None."""
        return await asyncpg.Connection.fetchrow(self, find_text(query), *arguments)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """Return all rows."""
        return await asyncpg.Connection.fetch(self, find_text(query), *arguments)


async def connect(config: Config) -> Connection:
    """Open one connection. Raises OSError, TimeoutError or asyncpg's errors."""
    return await open_connection(config, Connection if config.statement_cache else UnpreparedConnection)


async def open_connection(config: Config, kind: type[C]) -> C:
    """Open a connection of a kind. Raises OSError, TimeoutError or asyncpg's errors."""
    url = config.database_url or DatabaseUrl()
    given = url.parameters
    try:
        connection = await asyncpg.connect(
            url.for_asyncpg(),
            connection_class=kind,
            ssl=True if given.get("sslrootcert") == "system" else None,  # verify-full, with ALPN
            timeout=float(given.get("connect_timeout", 0)) or config.connect_timeout,
            command_timeout=config.query_timeout,
            statement_cache_size=config.statement_cache,
            max_cached_statement_lifetime=0,  # the default prepares every statement anew each 5 minutes
            server_settings={"application_name": given.get("application_name", "bareline")},
        )
    except asyncpg.TargetServerAttributeNotMatched as error:
        wanted = given.get("target_session_attrs", "any")
        raise type(error)(f"no host has target_session_attrs={wanted}") from None
    try:
        await connection.set_up(given)
    except BaseException:
        connection.terminate()
        raise
    return connection


class JsonText(str):
    """JSON as text, which was checked."""

    __slots__ = ()


def encode_json(value: object) -> str:
    """Return JSON text for a jsonb parameter."""
    return value if isinstance(value, JsonText) else msgspec.json.encode(value).decode()


def is_outcome_unknown(error: Exception) -> bool:
    """Return whether it is not known how a statement ended.

    The cause of a lost connection is PostgreSQL's last words, where there were any; or that nothing could be
    sent any more.
    """
    cause = error.__cause__ or error
    known = isinstance(cause, BrokenPipeError) or getattr(cause, "severity", None)
    return isinstance(error, OUTCOME_UNKNOWN_ERRORS) and not known


async def close_connection(connection: Connection) -> None:
    """Close a connection, the hard way where it is gone already or does not answer."""
    try:
        await connection.close(timeout=CLOSE_TIMEOUT)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
