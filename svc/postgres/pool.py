"""The connections to PostgreSQL: opened late, lent one query at a time, bounded, replaced when they die.

asyncpg's own pool takes 86 µs a query here where this takes 39 µs (64 tasks, 10 connections, one core,
a point read over a Unix socket; both without a reset query): it builds a proxy and shields a task each
time a connection goes out and comes back.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg

from svc.config import Config
from svc.http.problems import SCHEMA_MISMATCH, unavailable
from svc.postgres.connection import LOST, Connection, connect, is_unanswered, say_goodbye
from svc.postgres.queries import Row, Signature
from svc.postgres.statements import Query

T = TypeVar("T")

REPROVE_SECONDS = 1.0
"""How long a query that disagreed with the schema is refused without another look at the schema."""


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
