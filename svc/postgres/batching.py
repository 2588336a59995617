"""Natural batching: what cannot be sent at once waits together, and leaves as one statement.

Theory of operation. A batcher has a bounded queue with a few places, each a statement under way. A key that
comes while a place is free leaves within the same turn of the event loop, alone or with those of that turn.
A key that comes while all places are taken waits, and the next worker that comes back takes it along: all
that wait, or half of them where it is much. There is no timer, so an idle service answers no later than
without batches. A key joins only a batch that was not sent yet: it sees every write that was answered before
it came.

Each caller has an outcome of its own. One that goes away takes nothing with it. A batch that fails by what
one of its members asked (a value that cannot be stored, a constraint) is asked again one by one, in a second
queue, the fallback: who comes behind does not wait for it, and it does not take all connections. A batch
that fails by the database's own trouble fails as a whole.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Generic, Protocol, Self, TypeVar

from svc.postgres.errors import OverloadedError, UnavailableError
from svc.postgres.queueing import MAX_BATCH_SIZE, BoundedQueue, K, Limits, R, Waiter, queue_each

MIN_SPLIT_SIZE = 16
"""Members that a batch may have however many wait."""

MAX_PAGES, MIN_PAGES = 16, 2
"""The same of pages, and the most: with 16 there are 1.08 times as many pages of 100 a second as with eight,
and with 32 fewer again, as either side then waits for the other."""

LARGE = 251
LARGE_CONCURRENCY = 1
"""Rows above which a page goes alone, and how many such pages are read at once: each takes the event loop for
milliseconds. Beside 20 clients that ask for pages of 1,000 a read took 19 to 37 ms (p99) without it, 11 to 14
with two at once and 5 with one, as beside 20 point reads; of these pages there are a third less."""

F = TypeVar("F", covariant=True)

FetchOne = Callable[[K], Awaitable[R | None]]


class Batcher(ABC, Generic[K, R]):
    """Keys of one kind. `fetch_one` asks for a single one."""

    def __init__(
        self,
        limits: Limits,
        fetch_one: FetchOne[K, R],
        sizes: tuple[int, int] = (MIN_SPLIT_SIZE, MAX_BATCH_SIZE),
    ) -> None:
        self._fetch_one = fetch_one
        self._min_split_size, self._max_batch_size = sizes[0], min(limits.max_batch_size, sizes[1])
        self._queue = BoundedQueue(self._run, limits, limits.concurrency, self._take)
        self._fallback = queue_each(fetch_one, limits, limits.fallback_concurrency)
        self.submit = self._queue.submit
        self.get = self._queue.get

    @abstractmethod
    async def _run_batch(self, batch: Sequence[Waiter[K, R]]) -> None:
        """Ask for all with one statement and resolve each. Raises before anyone was told."""

    async def _run(self, batch: Sequence[Waiter[K, R]]) -> None:
        try:
            await self._run_batch(batch)
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, UnavailableError):
                self._fall_back(batch)
                return
            for waiter in batch:
                waiter.resolve(None, error)

    def _fall_back(self, waiters: Iterable[Waiter[K, R]]) -> None:
        """Have each asked for alone."""
        for waiter in waiters:
            try:
                self._fallback.submit(waiter.key, waiter.callback)
            except OverloadedError as error:
                waiter.resolve(None, error)

    def _take(self, waiting: deque[Waiter[K, R]]) -> Sequence[Waiter[K, R]]:
        """Take the next to leave together."""
        size = self._choose_size(len(waiting))
        if len(waiting) <= size:
            batch = list(waiting)
            waiting.clear()
            return batch
        return [waiting.popleft() for _ in range(size)]

    def _choose_size(self, waiting: int) -> int:
        """Return how many may leave together: half of all that wait or are under way.

        PostgreSQL then works on the one half while this process answers the other. All at once would leave
        each idle in turn: with 64 that ask, a fifth fewer point reads a second.
        """
        half = (waiting + self._queue.under_way + 1) // 2
        return min(self._max_batch_size, max(self._min_split_size, half))


class ReadBatcher(Batcher[K, R]):
    """Point reads. `fetch_many` gives the rows of several keys, as far as there are any, in any order."""

    def __init__(
        self,
        limits: Limits,
        fetch_one: FetchOne[K, R],
        fetch_many: Callable[[list[K]], Awaitable[Iterable[R]]],
        find_key: Callable[[R], K] = attrgetter("id"),
    ) -> None:
        super().__init__(limits, fetch_one)
        self._fetch_many = fetch_many
        self._find_key = find_key

    async def _run_batch(self, batch: Sequence[Waiter[K, R]]) -> None:
        if len(batch) == 1:
            batch[0].resolve(await self._fetch_one(batch[0].key))
            return
        found = await self._fetch_many([waiter.key for waiter in batch])
        rows = {self._find_key(row): row for row in found}
        for waiter in batch:
            waiter.resolve(rows.get(waiter.key))


class Sized(Protocol):
    """A page that is asked for."""

    @property
    def size(self) -> int:
        """The rows that it may have."""
        ...


P = TypeVar("P", bound=Sized)


class PageBatcher(Batcher[P, list[R]]):
    """Pages of a list, look-ups. `fetch_many` gives the rows of several, a list for each, in their order."""

    def __init__(self, limits: Limits, fetch_many: Callable[[list[P]], Awaitable[list[list[R]]]]) -> None:
        super().__init__(limits, self._fetch_alone, (MIN_PAGES, MAX_PAGES))
        self._fetch_many = fetch_many
        self._large = queue_each(self._fetch_alone, limits, LARGE_CONCURRENCY)

    def find_lane(self, page: P) -> BoundedQueue[P, list[R]]:
        """Return what a page waits in: large ones have a lane of their own."""
        return self._large if page.size > LARGE else self._queue

    async def _fetch_alone(self, page: P) -> list[R]:
        (rows,) = await self._fetch_many([page])
        return rows

    async def _run_batch(self, batch: Sequence[Waiter[P, list[R]]]) -> None:
        pages = await self._fetch_many([waiter.key for waiter in batch])
        if len(pages) != len(batch):  # before anyone is told, for nobody may be told twice
            raise LookupError(f"of {len(batch)} pages {len(pages)} came")
        for waiter, rows in zip(batch, pages, strict=True):
            waiter.resolve(rows)


class Ids(str):
    """Ids as PostgreSQL reads an array of them, `{1, 2}`: `any(:ids::text::bigint[])`.

    asyncpg takes 0.4 µs for each element of a list, and nothing for those of a text.
    """

    __slots__ = ()

    @classmethod
    def of(cls, ids: list[int]) -> Self:
        """Return them in the same order."""
        return cls(f"{{{str(ids)[1:-1]}}}")


class FetchById(Protocol[F]):
    """A query for the row of one id."""

    def __call__(self, *, id: int) -> Awaitable[F | None]: ...


class FetchByIds(Protocol[F]):
    """A query for the rows of several ids, as far as there are any, in any order."""

    def __call__(self, *, ids: Ids) -> Awaitable[Sequence[F]]: ...


def batch_by_id(limits: Limits, fetch_one: FetchById[R], fetch_many: FetchByIds[R]) -> ReadBatcher[int, R]:
    """Return a batcher of point reads by id."""
    return ReadBatcher(limits, lambda id_: fetch_one(id=id_), lambda ids: fetch_many(ids=Ids.of(ids)))


C = TypeVar("C")
S = TypeVar("S")


class WriteBatcher(Batcher[C, S]):
    """Changes of single rows. A batch has each row once: a second change of it waits for the next batch.

    `find_key` tells which row a change is of, and which row came back.

    `change_many` makes changes in one statement, one commit, waits for no lock, and gives the rows that it
    changed. What it left alone, a locked row or one that is not there, is tried with `change_one`, which
    finds out why.
    """

    def __init__(
        self,
        limits: Limits,
        change_one: FetchOne[C, S],
        change_many: Callable[[list[C]], Awaitable[list[S]]],
        find_key: Callable[[Any], object] = attrgetter("id"),
    ) -> None:
        super().__init__(limits, change_one)
        self._change_many = change_many
        self._find_key = find_key

    async def _run_batch(self, batch: Sequence[Waiter[C, S]]) -> None:
        changed = await self._change_many([waiter.key for waiter in batch])
        rows = {self._find_key(row): row for row in changed}
        self._fall_back(waiter for waiter in batch if self._find_key(waiter.key) not in rows)
        for waiter in batch:
            if row := rows.get(self._find_key(waiter.key)):
                waiter.resolve(row)

    def _take(self, waiting: deque[Waiter[C, S]]) -> Sequence[Waiter[C, S]]:
        batch: dict[object, Waiter[C, S]] = {}
        later: list[Waiter[C, S]] = []
        size = self._choose_size(len(waiting))
        while waiting and len(batch) < size:
            waiter = waiting.popleft()
            if batch.setdefault(self._find_key(waiter.key), waiter) is not waiter:
                later.append(waiter)
        waiting.extendleft(reversed(later))
        return list(batch.values())
