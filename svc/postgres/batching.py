"""Natural batching: what cannot be sent at once waits together, and leaves as one statement.

A lane has a few statements under way at most. What is asked for while one more may go leaves within the
same turn of the event loop; what is asked for while all are out waits, and the next that comes back takes
it along, or half of it where it is much. There is no timer, so an idle service answers no later than
without a lane. A request joins only a batch that was not sent yet: it sees every write that was answered
before it came.

Each caller has an outcome of its own. One that goes away takes nothing with it, and a batch that
fails by what one of its members asked is asked again one by one.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from svc.http.problems import Problem, find_problem, unavailable

K = TypeVar("K")
"""What is asked for: an id, a change."""

R = TypeVar("R")
"""A row."""

Done = Callable[[R | None, Exception | None], None]
"""Is told the row, or None where there is none; or the error."""

FEW = 16
"""Members that a batch may have however many wait."""

logger = logging.getLogger("svc")


class Limits(Struct, frozen=True):
    """What a lane may hold.

    `width` batches are under way, `single` statements in a lane that has no batches, `aside` more for what
    batches could not answer; `most` are the members of a batch, `queue_size` those that wait, `seconds` how
    long they may.
    """

    width: int
    single: int
    aside: int
    most: int
    queue_size: int
    seconds: float

    def of_single(self) -> "Limits":
        """For statements that are not batched."""
        return msgspec.structs.replace(self, width=self.single, most=1)


class Entry(Struct, Generic[K, R], frozen=True):
    """One caller: what it asks, whom to tell, since when (seconds of the loop's clock)."""

    asked: K
    done: Done[R]
    since: float

    def tell(self, row: R | None, error: Exception | None = None) -> None:
        """Tells the caller. A caller that fails is logged, and its neighbours are told all the same."""
        try:
            self.done(row, error)
        except Exception:
            logger.exception("a batch could not tell one of its callers")


class Lane(Generic[K, R]):
    """A queue before the database, bounded in each way. `one` asks for a single row."""

    def __init__(self, limits: Limits, one: Callable[[K], Awaitable[R | None]]) -> None:
        self._limits = limits
        self._one = one
        self._waiting: deque[Entry[K, R]] = deque()
        self._free = limits.width
        self._under_way = 0
        self._waking = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def ask(self, asked: K, done: Done[R]) -> None:
        """Has `done` called once, later. Raises Problem 503 when too many wait."""
        if len(self._waiting) >= self._limits.queue_size:
            raise unavailable("Too many requests wait for the database", "overload")
        if self._loop is None:  # kept: asking for it is a system call in Python 3.11
            self._loop = asyncio.get_running_loop()
        self._waiting.append(Entry(asked, done, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.seconds, self._give_up)
        if self._free and not self._waking:
            self._wake()

    async def get(self, asked: K) -> R | None:
        """The row, or None. Raises what the database raised, and Problem 503 as `ask`."""
        future: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()
        self.ask(asked, partial(settle, future))
        return await future

    def _wake(self) -> None:
        """Has what waits at the end of this turn sent."""
        self._free -= 1
        self._waking = True
        task = asyncio.ensure_future(self._work(), loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        """Sends what waits until nobody does; what is too much for one goes at once where one more may go."""
        self._waking = False
        try:
            while batch := self._take():
                if self._waiting and self._free and not self._waking:
                    self._wake()
                self._under_way += len(batch)
                try:
                    await self._send(batch)
                finally:
                    self._under_way -= len(batch)
        finally:
            self._free += 1

    def _take(self) -> Sequence[Entry[K, R]]:
        """The next to leave together."""
        waiting, most = self._waiting, self._find_most()
        if len(waiting) <= most:
            self._waiting = deque()
            return waiting
        return [waiting.popleft() for _ in range(most)]

    def _find_most(self) -> int:
        """How many may leave together: half of all that wait or are under way.

        PostgreSQL then works on the one half while this process answers the other. All at once would leave
        each idle in turn: with 64 that ask, a fifth fewer point reads a second.
        """
        half = (len(self._waiting) + self._under_way + 1) // 2
        return min(self._limits.most, max(FEW, half))

    async def _send(self, batch: Sequence[Entry[K, R]]) -> None:
        """Asks for each and tells it."""
        for entry in batch:
            try:
                row = await self._one(entry.asked)
            except Exception as error:
                entry.tell(None, error)
            else:
                entry.tell(row)

    def _give_up(self) -> None:
        """Ends the wait of those who have waited too long. One timer a lane: one a request costs 2 µs."""
        self._timer = None
        loop = asyncio.get_running_loop()
        ended = loop.time() - self._limits.seconds
        while self._waiting and self._waiting[0].since <= ended:
            self._waiting.popleft().tell(None, unavailable("No connection came free in time", "overload"))
        if self._waiting:
            again = self._waiting[0].since + self._limits.seconds
            self._timer = loop.call_at(again, self._give_up)


class BatchLane(Lane[K, R], ABC):
    """Batches of one kind. What a batch could not answer is asked one by one, in a lane of its own: who comes
    behind does not wait for it, and it does not take all connections."""

    def __init__(self, limits: Limits, one: Callable[[K], Awaitable[R | None]]) -> None:
        super().__init__(limits, one)
        alone = msgspec.structs.replace(limits, width=limits.aside, most=1)
        self._aside: Lane[K, R] = Lane(alone, one)

    @abstractmethod
    async def _send_together(self, batch: Sequence[Entry[K, R]]) -> None:
        """Asks for all with one statement and tells each. Raises before anyone was told."""

    async def _send(self, batch: Sequence[Entry[K, R]]) -> None:
        try:
            await self._send_together(batch)
        except Exception as error:
            if len(batch) > 1 and is_about_one(error):
                self._set_aside(batch)
                return
            for entry in batch:
                entry.tell(None, error)

    def _set_aside(self, entries: Iterable[Entry[K, R]]) -> None:
        for entry in entries:
            try:
                self._aside.ask(entry.asked, entry.done)
            except Problem as problem:
                entry.tell(None, problem)


class ReadLane(BatchLane[K, R]):
    """Point reads. `many` gives the rows of several keys, as far as there are any."""

    def __init__(
        self,
        limits: Limits,
        one: Callable[[K], Awaitable[R | None]],
        many: Callable[[list[K]], Awaitable[Mapping[K, R]]],
    ) -> None:
        super().__init__(limits, one)
        self._many = many

    async def _send_together(self, batch: Sequence[Entry[K, R]]) -> None:
        if len(batch) == 1:
            batch[0].tell(await self._one(batch[0].asked))
            return
        rows = await self._many([entry.asked for entry in batch])
        for entry in batch:
            entry.tell(rows.get(entry.asked))


class Change(Protocol):
    """What a WriteLane is asked for: a change of the row with this id."""

    @property
    def id(self) -> int:
        """The row's."""
        ...


C = TypeVar("C", bound=Change)
S = TypeVar("S", bound=Change)


class WriteLane(BatchLane[C, S]):
    """Changes of single rows. A batch has each row once: a second change of it waits for the next batch.

    `many` makes changes in one statement, one commit, waits for no lock, and gives the rows that it changed.
    What it left alone, a locked row or one that is not there, is tried with `one`, which finds out why.
    """

    def __init__(
        self,
        limits: Limits,
        one: Callable[[C], Awaitable[S | None]],
        many: Callable[[list[C]], Awaitable[list[S]]],
    ) -> None:
        super().__init__(limits, one)
        self._many = many

    async def _send_together(self, batch: Sequence[Entry[C, S]]) -> None:
        rows = {row.id: row for row in await self._many([entry.asked for entry in batch])}
        self._set_aside(entry for entry in batch if entry.asked.id not in rows)
        for entry in batch:
            if row := rows.get(entry.asked.id):
                entry.tell(row)

    def _take(self) -> Sequence[Entry[C, S]]:
        batch: dict[int, Entry[C, S]] = {}
        later: list[Entry[C, S]] = []
        most = self._find_most()
        while self._waiting and len(batch) < most:
            entry = self._waiting.popleft()
            if batch.setdefault(entry.asked.id, entry) is not entry:
                later.append(entry)
        self._waiting.extendleft(reversed(later))
        return list(batch.values())


def settle(future: "asyncio.Future[R | None]", row: R | None, error: Exception | None) -> None:
    """Gives a future its outcome, unless nobody waits for it any more."""
    if future.done():
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(row)


def is_about_one(error: Exception) -> bool:
    """Whether an error may come from what one member asked: not where the database itself is in trouble."""
    problem = error if isinstance(error, Problem) else find_problem(error)
    return problem is None or problem.status != 503 or problem.code == "try-again"
