"""The connections to PostgreSQL: opened late, lent one query at a time, bounded, replaced when they die.

asyncpg's own pool takes 86 µs a query here where this takes 39 µs (64 tasks, 10 connections, one core,
a point read over a Unix socket; both without a reset query): it builds a proxy and shields a task each
time a connection goes out and comes back.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NoReturn, Protocol, Self, TypeVar, overload

import asyncpg

from svc.config import Config
from svc.postgres.connection import (
    CONNECTION_LOST_ERRORS,
    Connection,
    close_connection,
    connect,
    is_outcome_unknown,
)
from svc.postgres.errors import (
    DRIVER_ERRORS,
    SCHEMA_MISMATCH,
    DatabaseError,
    OutcomeUnknownError,
    OverloadedError,
    QueryTimeoutError,
    SchemaMismatchError,
    translate,
)
from svc.postgres.queries import Executor, Row, Signature
from svc.postgres.statements import Query

T = TypeVar("T")

OUTCOME_UNKNOWN = "The change may have been made, or may not"

REPROVE_INTERVAL = 1.0
"""Seconds that a query which disagreed with the schema is refused without another look at the schema."""


class Bindable(Protocol):
    """What can be bound to a transaction: a class of queries, Savepoints."""

    @classmethod
    def bind(cls, executor: Executor) -> Self:
        """Return an object that runs what it runs by `executor`."""
        ...


A = TypeVar("A", bound=Bindable)
B = TypeVar("B", bound=Bindable)
C = TypeVar("C", bound=Bindable)


class Database:
    """At most `pool_size` connections; the one used last goes out first. An Executor.

    Opens no connection until one is needed, so that it can be made while the server is down. The first
    connection proves all `pairs`; a query that disagrees with the live schema is refused from then on,
    until it is found mended. Raises errors of svc/postgres/errors.py, and the driver's for bugs of ours.
    """

    def __init__(self, config: Config, pairs: Sequence[tuple[Query, Signature]] = ()) -> None:
        self.config = config
        self.pairs = pairs
        self._mismatches: dict[str, str] = {}
        self._proved_at = self._looked_at = 0.0
        self._idle: list[Connection] = []
        # Not a dict: to find the first key of one whose first keys were taken out takes ever longer.
        self._waiting: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._generation = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._size = 0
        self._closed = False

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """Return the first row, or None."""
        return await self._run(lambda connection: connection.fetch_one(query, arguments), query)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """Return all rows."""
        return await self._run(lambda connection: connection.fetch_all(query, arguments), query)

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        """Return the number of rows that were changed."""
        return await self._run(lambda connection: connection.change(query, arguments), query)

    async def _run(self, run: Callable[[Connection], Awaitable[T]], query: Query) -> T:
        try:
            try:
                return await self._run_once(run, query)
            except CONNECTION_LOST_ERRORS as error:
                # The server went while the connection lay idle, perhaps: a read may be tried again, once.
                if not query.reads or isinstance(error, TimeoutError):
                    raise
                return await self._run_once(run, query)
        except DRIVER_ERRORS as error:
            raise_translated(error)

    async def _run_once(self, run: Callable[[Connection], Awaitable[T]], query: Query) -> T:
        """Run it on one connection. Raises OutcomeUnknownError where a change may have been made."""
        connection = await self._acquire()
        try:
            if self._mismatches:
                await self._refuse_mismatch(connection, query)
            return await run(connection)
        except Exception as error:
            self._handle_error(connection, error)
            if isinstance(error, asyncpg.DataError):  # a value that was refused here, unsent
                await connection.end_parse()
            if is_outcome_unknown(error) and not query.reads:
                raise OutcomeUnknownError(OUTCOME_UNKNOWN) from error
            raise
        finally:
            self._release(connection)

    async def _refuse_mismatch(self, connection: Connection, query: Query) -> None:
        """Look again. Raises SchemaMismatchError for a query that still disagrees with the schema."""
        if str(query) in self._mismatches and time.monotonic() - self._proved_at > REPROVE_INTERVAL:
            await self._prove(connection)
        if str(query) in self._mismatches:
            raise SchemaMismatchError(SCHEMA_MISMATCH)

    @overload
    def transaction(self, a: type[A], /, *, snapshot: bool = ...) -> AbstractAsyncContextManager[A]: ...
    @overload
    def transaction(
        self, a: type[A], b: type[B], /, *, snapshot: bool = ...
    ) -> AbstractAsyncContextManager[tuple[A, B]]: ...
    @overload
    def transaction(
        self, a: type[A], b: type[B], c: type[C], /, *, snapshot: bool = ...
    ) -> AbstractAsyncContextManager[tuple[A, B, C]]: ...

    @asynccontextmanager
    async def transaction(self, *kinds: type[Bindable], snapshot: bool = False) -> AsyncGenerator[Any]:
        """Run a block in one transaction, with queries that are bound to it; roll back on an exception.

            async with database.transaction(NoteQueries, UserQueries) as (notes, users): …

        One class gives one object, several a tuple. In a `snapshot` all is read as it was at the first query,
        and nothing is written.
        """
        try:
            async with self._begin(snapshot=snapshot) as connection:
                transaction = Transaction(connection)
                bound = tuple(kind.bind(transaction) for kind in kinds)
                yield bound if len(bound) > 1 else next(iter(bound))
                if transaction.failed:  # and caught: PostgreSQL would answer the commit with a rollback
                    raise transaction.failed
        except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError, TimeoutError) as error:
            raise_translated(error)

    @asynccontextmanager
    async def _begin(self, *, snapshot: bool) -> AsyncGenerator[Connection]:
        try:
            connection = await self._acquire()
        except DRIVER_ERRORS as error:
            raise_translated(error)
        try:
            if snapshot:  # what was prepared but not run has taken an older one
                await connection.end_parse()
            async with run_block(connection, snapshot=snapshot):
                yield connection
        except (asyncio.CancelledError, TimeoutError, QueryTimeoutError):
            connection.terminate()  # its `begin` may be on the way: nobody may write behind it
            raise
        except (asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseError) as error:
            self._handle_error(connection, error.__cause__ if isinstance(error, DatabaseError) else error)
            raise  # an OSError may be the caller's own
        finally:
            self._release(connection)

    async def check(self) -> list[str]:
        """Look at the live schema now; return a line for each query that disagrees with it."""
        began = time.monotonic()
        try:
            connection = await self._acquire()
            try:
                if self._looked_at < began:  # a first connection has looked already
                    await self._prove(connection)
            finally:
                self._release(connection)
        except DRIVER_ERRORS as error:
            raise_translated(error)
        return list(self._mismatches.values())

    async def close(self) -> None:
        """Close what is idle; what is out is closed as it comes back."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(close_connection, idle))

    def expire(self) -> None:
        """Have every connection replaced: the idle ones now, the others as they come back."""
        self._generation += 1
        while self._idle:
            self._idle.pop().terminate()
            self._size -= 1

    async def _acquire(self) -> Connection:
        """Return a live connection: an idle one, a new one, or the next that comes back."""
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
            if not self._proved_at:
                await self._prove(connection)
        except BaseException:
            if connection:
                connection.terminate()
            self._size -= 1
            self._wake_next(None)
            raise
        return connection

    async def _prove(self, connection: Connection) -> None:
        """Look at the schema. Of several looks at a time, the one that began last says how it is."""
        began = time.monotonic()
        found = {
            str(query): await connection.find_mismatch(query, signature) for query, signature in self.pairs
        }
        if began >= self._looked_at:
            self._looked_at = began
            self._mismatches = {name: line for name, line in found.items() if line}
            self._proved_at = time.monotonic()

    async def _wait(self) -> Connection | None:
        """Return what the next one releases; None where one was lost, so that a new one may open."""
        if len(self._waiting) >= self.config.queue_size:
            raise OverloadedError("Too many requests wait for the database")
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
                self._wake_next(future.result())
            raise
        finally:
            self._waiting.pop(future, None)
            timer.cancel()

    def _handle_error(self, connection: Connection, error: BaseException | None) -> None:
        """Draw the conclusions from an error for the connections.

        One that is lost is seldom the only one. And where the server is not the primary any more, all must
        go: they would answer reads for ever, and no new one would ask where the primary is now. Those that
        are out go as they come back.
        """
        lost = isinstance(error, CONNECTION_LOST_ERRORS) and not isinstance(error, TimeoutError)
        if lost:
            connection.terminate()
        if lost or isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            self.expire()

    def _release(self, connection: Connection) -> None:
        stale = self._closed or connection.generation != self._generation
        if stale or (not connection.is_closed() and connection.is_in_transaction()):
            connection.terminate()
        if connection.is_closed():
            self._size -= 1
            self._wake_next(None)
        else:
            self._wake_next(connection)

    def _wake_next(self, connection: Connection | None) -> None:
        """Hand it to the one that waits longest; with nobody waiting, a connection becomes idle."""
        while self._waiting:
            future, _ = self._waiting.popitem(last=False)
            if not future.done():
                future.set_result(connection)
                return
        if connection:
            self._idle.append(connection)


class Transaction:
    """A connection in a transaction, for as long as the block lasts that began it: an Executor."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.failed: Exception | None = None

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """Return the first row, or None."""
        return await self._run(self.connection.fetch_one(query, arguments))

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """Return all rows."""
        return await self._run(self.connection.fetch_all(query, arguments))

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        """Return the number of rows that were changed."""
        return await self._run(self.connection.change(query, arguments))

    async def _run(self, statement: Awaitable[T]) -> T:
        """Await a statement, and note its failure: nothing that was done since a savepoint can be kept."""
        try:
            return await statement
        except DRIVER_ERRORS as error:
            self.failed = translate(error)
            raise_translated(error)


class Savepoints:
    """Parts of a transaction that may fail alone: `database.transaction(NoteQueries, Savepoints)`."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    @classmethod
    def bind(cls, executor: Executor) -> Self:
        """Return the savepoints of a transaction. Raises TypeError for any other executor."""
        if not isinstance(executor, Transaction):
            raise TypeError("savepoints are of a transaction")
        return cls(executor)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[None]:
        """Run a block whose changes are taken back where it raises, and no others."""
        try:
            async with self._transaction.connection.transaction():
                yield
        except BaseException:
            self._transaction.failed = None
            raise


@asynccontextmanager
async def run_block(connection: Connection, *, snapshot: bool) -> AsyncGenerator[None]:
    """Begin a transaction, and end it with its block. Raises OutcomeUnknownError for a lost commit.

    What is lost before that is rolled back for certain.
    """
    committing = False
    try:
        async with connection.transaction(
            isolation="repeatable_read" if snapshot else None, readonly=snapshot
        ):
            yield
            committing = not snapshot
    except Exception as error:
        if committing and is_outcome_unknown(error):
            connection.terminate()
            raise OutcomeUnknownError(OUTCOME_UNKNOWN) from error
        raise


def give_up(future: "asyncio.Future[Connection | None]") -> None:
    """End a wait. A bare timer: `asyncio.timeout` asks for the task and the loop each time."""
    if not future.done():
        future.set_exception(OverloadedError("No connection came free in time"))


def raise_translated(error: Exception) -> NoReturn:
    """Raise the driver's error as one of this package; one that has no name here stays as it is."""
    translated = translate(error)
    if translated is error:
        raise error
    raise translated from error
