"""Connections to PostgreSQL: opened late, lent one query at a time, bounded, replaced when they die.

asyncpg's own pool takes 86 µs a query here where this takes 39 µs (64 tasks, 10 connections, one core,
a point read over a Unix socket; both without a reset query): it builds a proxy and shields a task each
time a connection goes out and comes back. The price of having no reset query is that nothing may leave
session state behind: no `set` but `set local`, no session advisory locks, no `listen`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg
import msgspec
from asyncpg.prepared_stmt import PreparedStatement

from svc.config import Config
from svc.errors import SCHEMA_MISMATCH, unavailable
from svc.sql import Query, Row, Signature

T = TypeVar("T")

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""Errors after which a connection is of no use, but for its own timeout, which is an OSError as well."""

SILENT = (asyncpg.PostgresConnectionError, asyncpg.InternalClientError, OSError)
"""Errors by which a statement that was sent may end without a word from PostgreSQL."""

CLOSE_SECONDS = 2.0
"""How long one connection may take to say goodbye."""

REPROVE_SECONDS = 1.0
"""How long a query that disagreed with the schema is refused without another look at the schema."""


STALE = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""What a statement that was prepared before a change of the schema raises, before anything was done."""


class Connection(asyncpg.Connection):
    """An asyncpg connection that runs queries of the contract: an Executor.

    It keeps one prepared statement a query. asyncpg's own cache does the same and costs 5 to 8 µs more a
    call (`python -m bench.bound_query`).
    """

    generation = 0
    statements: dict[str, "PreparedStatement[asyncpg.Record]"]

    def get_reset_query(self) -> str:
        """None: see the top of this file."""
        return ""

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """The first row, or None."""
        statement = self.statements.get(query.sql) or await self._prepare_query(query)
        try:
            return await statement.fetchrow(*arguments)
        except STALE:
            return await (await self._prepare_anew(query)).fetchrow(*arguments)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """All rows."""
        statement = self.statements.get(query.sql) or await self._prepare_query(query)
        try:
            return await statement.fetch(*arguments)
        except STALE:
            return await (await self._prepare_anew(query)).fetch(*arguments)

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        """The number of rows that were changed, from the command tag: `UPDATE 1`."""
        status = await self.execute(query.sql, *arguments)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def _prepare_query(self, query: Query) -> "PreparedStatement[asyncpg.Record]":
        statement = self.statements[query.sql] = await self.prepare(query.sql)
        return statement

    async def _prepare_anew(self, query: Query) -> "PreparedStatement[asyncpg.Record]":
        """After a change of the schema; inside a transaction, which has failed by it, there is no way on."""
        self.statements.clear()
        if self.is_in_transaction():
            raise asyncpg.InvalidCachedStatementError("the schema has changed during a transaction")
        return await self._prepare_query(query)

    async def find_disagreement(self, query: Query, signature: Signature) -> str | None:
        """Prepares a query on the live schema: what is wrong with it, or None."""
        try:
            statement = await self.prepare(query.sql)
        except asyncpg.PostgresError as error:
            return f"{query}: SQLSTATE {error.sqlstate}"
        columns = tuple(attribute.name for attribute in statement.get_attributes())
        if signature.columns not in (None, columns):
            return f"{query}: columns {', '.join(columns)}"
        return None


class UnpreparedConnection(Connection):
    """The same without prepared statements, for poolers that give each transaction another server."""

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """The first row, or None."""
        return await self.fetchrow(query.sql, *arguments)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """All rows."""
        return await self.fetch(query.sql, *arguments)


async def connect(config: Config) -> Connection:
    """Opens one connection. Raises OSError, TimeoutError or asyncpg's errors."""
    connection = await asyncpg.connect(
        str(config.database_url),
        connection_class=Connection if config.statement_cache else UnpreparedConnection,
        timeout=config.connect_timeout,
        command_timeout=config.query_timeout,
        statement_cache_size=config.statement_cache,
        max_cached_statement_lifetime=0,  # the default prepares every statement anew each 5 minutes
        server_settings={"application_name": "bareline"},
    )
    connection.statements = {}
    try:
        # Out it goes as the server's text, never parsed; in it comes as a checked JsonObject.
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=encode_json, decoder=msgspec.Raw, format="text"
        )
        await connection.set_type_codec(
            "json", schema="pg_catalog", encoder=msgspec.json.encode, decoder=msgspec.Raw, format="binary"
        )
    except BaseException:
        connection.terminate()
        raise
    return connection


def encode_json(value: object) -> str:
    """JSON text for a jsonb parameter."""
    return msgspec.json.encode(value).decode()


def is_unanswered(error: Exception) -> bool:
    """Whether it is not known how a statement ended.

    The cause of a lost connection is PostgreSQL's last words, where there were any; or that nothing could be
    sent any more.
    """
    cause = error.__cause__ or error
    known = isinstance(cause, BrokenPipeError) or getattr(cause, "severity", None)
    return isinstance(error, SILENT) and not known


async def say_goodbye(connection: Connection) -> None:
    """Closes a connection, the hard way where it is gone already or does not answer."""
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


def give_up(future: "asyncio.Future[Connection | None]") -> None:
    """Ends a wait. A bare timer: `asyncio.timeout` asks for the task and the loop each time."""
    if not future.done():
        future.set_exception(unavailable("No connection came free in time", "overload"))


class Database:
    """At most `pool_size` connections; the one used last goes out first. An Executor.

    Opens no connection until one is needed, so that it can be made while the server is down. The first
    connection proves all `pairs`; a query that disagrees with the live schema is refused from then on,
    until it is found mended.
    """

    def __init__(self, config: Config, pairs: Sequence[tuple[Query, Signature]] = ()) -> None:
        self.config = config
        self.pairs = pairs
        self._broken: dict[str, str] = {}
        self._proved = 0.0
        self._idle: list[Connection] = []
        # Not a dict: to find the first key of one whose first keys were taken out takes ever longer.
        self._waiting: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._generation = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._size = 0
        self._closed = False

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """The first row, or None."""
        return await self._run(lambda connection: connection.fetch_one(query, arguments), query)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """All rows."""
        return await self._run(lambda connection: connection.fetch_all(query, arguments), query)

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        """The number of rows that were changed."""
        return await self._run(lambda connection: connection.change(query, arguments), query)

    async def _run(
        self,
        run: Callable[[Connection], Awaitable[T]],
        query: Query,
    ) -> T:
        try:
            return await self._run_once(run, query)
        except LOST as error:
            # The server went while the connection lay idle, perhaps: a read may be tried again, once.
            if not query.reads or isinstance(error, TimeoutError):
                raise
            return await self._run_once(run, query)

    async def _run_once(
        self,
        run: Callable[[Connection], Awaitable[T]],
        query: Query,
    ) -> T:
        """Raises Problem 503 where it is not known whether a change was made."""
        connection = await self._borrow()
        try:
            if self._broken:
                await self._refuse_broken(connection, query)
            return await run(connection)
        except Exception as error:
            self._judge(connection, error)
            if is_unanswered(error) and not query.reads:
                raise unavailable("The change may have been made, or may not", "outcome-unknown") from error
            raise
        finally:
            self._give_back(connection)

    async def _refuse_broken(self, connection: Connection, query: Query) -> None:
        """Raises Problem 503 for a query that disagrees with the schema, after another look at it."""
        if str(query) in self._broken and time.monotonic() - self._proved > REPROVE_SECONDS:
            await self._prove(connection)
        if str(query) in self._broken:
            raise unavailable(SCHEMA_MISMATCH, "schema-mismatch")

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncGenerator[Connection]:
        """One connection inside a transaction: `UserQueries.bind(connection)`. Rolls back on an exception.

        In a `snapshot` all is read as it was at the first query, and nothing is written.
        """
        connection = await self._borrow()
        try:
            if snapshot:  # what was prepared but not run has taken an older one, which this ends
                async with connection.transaction():
                    pass
            async with connection.transaction(
                isolation="repeatable_read" if snapshot else None, readonly=snapshot
            ):
                yield connection
        except (asyncio.CancelledError, TimeoutError):
            connection.terminate()  # its `begin` may be on the way: nobody may write behind it
            raise
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # an OSError may be the caller's own
            self._judge(connection, error)
            raise
        finally:
            self._give_back(connection)

    async def check(self) -> list[str]:
        """Proves all queries against the live schema once more: a line for each that disagrees."""
        connection = await self._borrow()
        try:
            await self._prove(connection)
        finally:
            self._give_back(connection)
        return list(self._broken.values())

    async def close(self) -> None:
        """Closes what is idle; what is out is closed as it comes back."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(say_goodbye, idle))

    def expire(self) -> None:
        """Has every connection replaced: the idle ones now, the others as they come back."""
        self._generation += 1
        while self._idle:
            self._idle.pop().terminate()
            self._size -= 1

    async def _borrow(self) -> Connection:
        """A live connection: an idle one, a new one, or the next that comes back."""
        while True:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
                self._size -= 1
            if self._size < self.config.pool_size:
                return await self._open()
            if waited := await self._wait():
                return waited

    async def _open(self) -> Connection:
        self._size += 1
        connection, generation = None, self._generation
        try:
            connection = await connect(self.config)
            connection.generation = generation
            if not self._proved:
                await self._prove(connection)
        except BaseException:
            if connection:
                connection.terminate()
            self._size -= 1
            self._hand_over(None)
            raise
        return connection

    async def _prove(self, connection: Connection) -> None:
        found = {
            str(query): await connection.find_disagreement(query, signature)
            for query, signature in self.pairs
        }
        self._broken = {name: line for name, line in found.items() if line}
        self._proved = time.monotonic()

    async def _wait(self) -> Connection | None:
        """What the next one gives back; None where a connection was lost, so that a new one may open."""
        if len(self._waiting) >= self.config.queue_size:
            raise unavailable("Too many requests wait for the database", "overload")
        if self._loop is None:  # kept: asking for it is a system call in Python 3.11
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiting[future] = None
        timer = self._loop.call_later(self.config.acquire_timeout, give_up, future)
        try:
            return await future
        except asyncio.CancelledError:
            # Handed something, then cancelled before it was taken: pass it on.
            if future.done() and not future.cancelled() and not future.exception():
                self._hand_over(future.result())
            raise
        finally:
            self._waiting.pop(future, None)
            timer.cancel()

    def _judge(self, connection: Connection, error: Exception) -> None:
        """What an error says of the connections.

        One that is lost is seldom the only one. And where the server is not the primary any more, all must
        go: they would answer reads for ever, and no new one would ask where the primary is now. Those that
        are out go as they come back.
        """
        lost = isinstance(error, LOST) and not isinstance(error, TimeoutError)
        if lost:
            connection.terminate()
        if lost or isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            self.expire()

    def _give_back(self, connection: Connection) -> None:
        stale = self._closed or connection.generation != self._generation
        if stale or (not connection.is_closed() and connection.is_in_transaction()):
            connection.terminate()
        if connection.is_closed():
            self._size -= 1
            self._hand_over(None)
        else:
            self._hand_over(connection)

    def _hand_over(self, connection: Connection | None) -> None:
        """To the one that waits longest; with nobody waiting, a connection becomes idle."""
        while self._waiting:
            future, _ = self._waiting.popitem(last=False)
            if not future.done():
                future.set_result(connection)
                return
        if connection:
            self._idle.append(connection)
