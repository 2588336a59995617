"""Bounded queues before the database: how many may wait, for how long, how many are at work.

A queue hands what waits to a few workers. One is woken when something comes and a place is free; it takes
what `take` chooses, works on it, and takes again until nothing waits. So what comes while a place is free is
at work within the same turn of the event loop, and the rest leaves as places come free. There is no thread,
and one timer for a whole queue: one for each request costs 2 µs.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from msgspec import Struct

from svc.config import Config
from svc.postgres.errors import TOO_SLOW, OverloadedError, QueryTimeoutError

K = TypeVar("K")
"""What is asked for: an id, a change."""

R = TypeVar("R")
"""A row."""

Callback = Callable[[R | None, Exception | None], None]
"""Is told the row, or None where there is none; or the error."""

CONCURRENCY = 2
"""Batches of a kind under way at once: two did better than one and than eight (python -m bench)."""

SLOW_CONCURRENCY = 1
"""Statements under way at once, of a kind, that walk rows because no index finds them, or move megabytes.

Others need cores, too. On two, with 300,000 users: a read beside 20 clients that count took 8.4 ms (p99) with
two counts under way and 4.2 with one, where as many point reads give it 3.3 and 4.3 (python -m
bench.neighbour)."""

MAX_BATCH_SIZE = 256

logger = logging.getLogger("svc")


class Limits(Struct, frozen=True):
    """Bounds of the queues: statements under way, keys in a batch, keys that wait, seconds they may wait.

    `slow_timeout` is how many seconds a statement may take that walks rows because no index finds them.
    """

    concurrency: int
    fallback_concurrency: int
    max_batch_size: int
    queue_size: int
    wait_timeout: float
    slow_timeout: float

    @classmethod
    def of(cls, config: Config) -> "Limits":
        """Return the limits of a worker. Without batching, each statement of a batch is one of its own.

        What batches could not answer (the fallback) leaves half of the connections to others.
        """
        concurrency, size = (CONCURRENCY, MAX_BATCH_SIZE) if config.batching else (config.pool_size, 1)
        fallback = max(1, config.pool_size // 2)
        wait = config.queue_size, config.acquire_timeout, config.slow_query_timeout
        return cls(concurrency, fallback, size, *wait)


class Waiter(Struct, Generic[K, R], frozen=True):
    """One caller: what it asks for, whom to tell, since when (seconds of the loop's clock)."""

    key: K
    callback: Callback[R]
    since: float

    def resolve(self, row: R | None, error: Exception | None = None) -> None:
        """Tell the caller. One that fails is logged, and its neighbours are told all the same."""
        try:
            self.callback(row, error)
        except Exception:
            logger.exception("a queue could not tell one of its callers")


class BoundedQueue(Generic[K, R]):
    """Callers in the order in which they came, `concurrency` batches of them at work.

    `work` resolves each of the waiters that it is given, and never raises; `take` removes the next ones from
    what waits, one unless said otherwise.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Waiter[K, R]]], Awaitable[None]],
        limits: Limits,
        concurrency: int,
        take: Callable[[deque[Waiter[K, R]]], Sequence[Waiter[K, R]]] | None = None,
    ) -> None:
        self._work = work
        self._take = take or take_one
        self._queue_size = limits.queue_size
        self._wait_timeout = limits.wait_timeout
        self._waiting: deque[Waiter[K, R]] = deque()
        self._free = concurrency
        self._waking = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.under_way = 0

    def submit(self, key: K, callback: Callback[R]) -> None:
        """Have `callback` called once, later. Raises OverloadedError where too many wait."""
        if len(self._waiting) >= self._queue_size:
            raise OverloadedError("Too many requests wait for the database")
        if self._loop is None:  # kept: asking for it is a system call in Python 3.11
            self._loop = asyncio.get_running_loop()
        self._waiting.append(Waiter(key, callback, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._wait_timeout, self._expire)
        if self._free and not self._waking:
            self._wake_worker()

    async def get(self, key: K) -> R | None:
        """Return the row, or None. Raises what the work raised, and OverloadedError."""
        future: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()
        self.submit(key, partial(settle, future))
        return await future

    def _wake_worker(self) -> None:
        """Have what waits at the end of this turn of the loop taken."""
        self._free -= 1
        self._waking = True
        task = asyncio.ensure_future(self._run_worker(), loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_worker(self) -> None:
        """Work until nobody waits; what is too much for one wakes another one where a place is free."""
        self._waking = False
        try:
            while batch := self._take(self._waiting):
                if self._waiting and self._free and not self._waking:
                    self._wake_worker()
                self.under_way += len(batch)
                try:
                    await self._work(batch)
                finally:
                    self.under_way -= len(batch)
        finally:
            self._free += 1

    def _expire(self) -> None:
        """Refuse those who have waited too long."""
        self._timer = None
        loop = asyncio.get_running_loop()
        ended = loop.time() - self._wait_timeout
        while self._waiting and self._waiting[0].since <= ended:
            self._waiting.popleft().resolve(None, OverloadedError("No connection came free in time"))
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0].since + self._wait_timeout, self._expire)


def take_one(waiting: deque[Waiter[K, R]]) -> Sequence[Waiter[K, R]]:
    """Take the one that has waited longest."""
    return [waiting.popleft()] if waiting else []


async def fetch_each(fetch: Callable[[K], Awaitable[R | None]], waiters: Sequence[Waiter[K, R]]) -> None:
    """Resolve each with a statement of its own."""
    for waiter in waiters:
        try:
            row = await fetch(waiter.key)
        except Exception as error:
            waiter.resolve(None, error)
        else:
            waiter.resolve(row)


def queue_each(
    fetch: Callable[[K], Awaitable[R | None]], limits: Limits, concurrency: int
) -> BoundedQueue[K, R]:
    """Return a queue whose every caller has a statement of its own, a few under way at a time."""
    return BoundedQueue(partial(fetch_each, fetch), limits, concurrency)


def queue_slow(fetch: Callable[[K], Awaitable[R | None]], limits: Limits) -> BoundedQueue[K, R]:
    """Return a lane of its own for statements that walk rows because no index finds them.

    Few are under way at a time. Whoever takes longer than `slow_timeout` gets a QueryTimeoutError.
    """

    async def fetch_in_time(key: K) -> R | None:
        try:
            async with asyncio.timeout(limits.slow_timeout):
                return await fetch(key)
        except TimeoutError:
            raise QueryTimeoutError(TOO_SLOW) from None

    return queue_each(fetch_in_time, limits, SLOW_CONCURRENCY)


def settle(future: "asyncio.Future[R | None]", row: R | None, error: Exception | None) -> None:
    """Give a future its outcome, unless nobody waits for it any more."""
    if future.done():
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(row)


class Slots:
    """How many long operations of a kind a worker has under way: at most a quarter of its connections.

    Of one owner, whatever tells clients apart, they are half of that, so that none takes them all.
    """

    def __init__(self, config: Config) -> None:
        self._free = max(1, config.pool_size // 4)
        self._share = max(1, self._free // 2)
        self._taken: Counter[object] = Counter()

    @contextmanager
    def acquire(self, owner: object) -> Generator[None]:
        """Hold one slot for as long as a block lasts. Raises OverloadedError where there is none."""
        if not self._free or self._taken[owner] >= self._share:
            raise OverloadedError("Too many exports or imports are under way")
        self._free -= 1
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._free += 1
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]
