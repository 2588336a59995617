"""Passwords, and their hashes."""

import concurrent.futures
import re
import time
from asyncio import Future, get_running_loop
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self, TypeVar, cast

import argon2
from msgspec import Struct

from svc.config import Config
from svc.http.problems import Problem, unavailable
from svc.postgres.secret import Secret, reveal


class Password(str):
    """A password to be hashed: 8 characters or more, 1,024 bytes at most. Its repr hides it."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read one. Raises ValueError, or TypeError for what is no text."""
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        if len(value) < 8:
            raise ValueError("Expected 8 characters or more")
        if len(value.encode()) > 1024:
            raise ValueError("Expected 1,024 bytes or fewer")
        if "\x00" in value:
            raise ValueError("Expected no U+0000")
        return cls(value)

    def __repr__(self) -> str:
        return "Password(…)"


BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048])?"
NUMBER = "([1-9][0-9]{0,6})"


class PasswordHash(str):
    """A ready argon2 hash as a PHC string, of a cost that a login can bear. Its repr hides it."""

    __slots__ = ()

    PHC: ClassVar = re.compile(
        rf"\$argon2(?:id|i|d)\$v=(?:16|19)\$m={NUMBER},t={NUMBER},p={NUMBER}\$({BASE64})\$({BASE64})"
    )
    MOST: ClassVar = 262_144, 1_048_576, 16
    """KiB of memory; KiB times passes, about a second of one core; lanes, each a thread."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read one. Raises ValueError, or TypeError for what is no text."""
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        found = cls.PHC.fullmatch(value)
        if not found or not 11 <= len(found[4]) <= 64 or not 16 <= len(found[5]) <= 86:
            raise ValueError("Expected an argon2 hash such as $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>")
        memory, passes, lanes = int(found[1]), int(found[2]), int(found[3])
        costs = zip((memory, memory * passes, lanes), cls.MOST, strict=True)
        if memory < 8 * lanes or any(cost > most for cost, most in costs):
            raise ValueError("Expected m from 8 × p to {:,}, m × t to {:,} and p to {}".format(*cls.MOST))
        return cls(value)

    def __repr__(self) -> str:
        return "PasswordHash(…)"


T = TypeVar("T")

CHEAP = 256
HELD_UP = 0.01
"""KiB times passes of a hash that is made where it is asked for, in 0.2 ms: a thread would wait for its turn,
1 ms each time. And seconds after which the next one goes to a thread all the same."""


class Job(Struct, frozen=True, eq=False):
    """A password to be hashed or verified, and who waits for it."""

    outcome: Future[Any]
    work: Callable[..., Any]
    arguments: tuple[object, ...]


class Passwords:
    """Hashes passwords with argon2id, in a small pool of threads of its own.

    The defaults are OWASP's floor (19 MiB, 2 passes, 1 lane): 23 ms of one core here. A slot belongs to
    the job and not to the request, so clients that hang up cannot get past the bound. Owners, whatever tells
    clients apart, take turns, and where too many wait, whoever has the most gives way: one who registers
    without end, or all who have no key together, are one of them.
    """

    def __init__(self, config: Config) -> None:
        self._hasher = argon2.PasswordHasher(
            time_cost=config.hash_passes, memory_cost=config.hash_memory, parallelism=1
        )
        self._threads = ThreadPoolExecutor(config.hash_threads, thread_name_prefix="argon2")
        self._may_be_cheap = config.hash_memory * config.hash_passes <= CHEAP
        self._is_cheap = False
        self._free = config.hash_threads
        self._queue_size = config.hash_queue
        self._waiting: OrderedDict[object, deque[Job]] = OrderedDict()

    async def hash(self, password: Password, owner: object = None) -> str:
        """Return the PHC string. Raises Problem 503 when too many wait."""
        if self._is_cheap:
            return self._hash(str(password))
        return await self._run(owner, self._hash, str(password))

    def _hash(self, password: str) -> str:
        """Hash, and note whether that was cheap, as it is with parameters far below OWASP's floor."""
        began = time.perf_counter()
        hashed = self._hasher.hash(password)
        self._is_cheap = self._may_be_cheap and time.perf_counter() - began < HELD_UP
        return hashed

    async def verify(self, hashed: Secret[str], password: Password, owner: object = None) -> bool:
        """Return whether it is the password that was hashed. Raises Problem 503 when too many wait."""
        return await self._run(owner, self._matches, hashed, str(password))

    def _matches(self, hashed: Secret[str], password: str) -> bool:
        hash_ = reveal(hashed)
        try:  # what others put there is no hash of any password, perhaps
            return PasswordHash.PHC.fullmatch(hash_) is not None and self._hasher.verify(hash_, password)
        except argon2.exceptions.VerifyMismatchError:
            return False

    async def _run(self, owner: object, work: Callable[..., T], *arguments: object) -> T:
        job = Job(get_running_loop().create_future(), work, arguments)
        if sum(map(len, self._waiting.values())) >= self._queue_size + self._free:
            self._make_room(owner)
        self._waiting.setdefault(owner, deque()).append(job)
        self._start()
        try:
            return cast("T", await job.outcome)
        finally:
            self._forget(owner, job)

    def _make_room(self, owner: object) -> None:
        """Drop the last job of the owner who has the most. Raises Problem 503 where that is this one."""
        most = max(self._waiting, key=lambda each: len(self._waiting[each]), default=owner)
        if len(self._waiting.get(owner, ())) + 1 >= len(self._waiting.get(most, ())):
            raise too_many()
        dropped = self._waiting[most].pop().outcome
        if not dropped.done():  # who asked may have left this very moment
            dropped.set_exception(too_many())

    def _start(self) -> None:
        """Begin with what waits, of each owner in turn, as long as there is a thread."""
        while self._free and self._waiting:
            owner, jobs = next(iter(self._waiting.items()))
            job = jobs.popleft()
            self._waiting.move_to_end(owner)
            if not jobs:
                del self._waiting[owner]
            self._free -= 1
            self._submit(job)

    def _submit(self, job: Job) -> None:
        loop = get_running_loop()
        done = self._threads.submit(job.work, *job.arguments)
        done.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, job, done))

    def _finish(self, job: Job, done: concurrent.futures.Future[Any]) -> None:
        """Tell who waits, if somebody does, and go on."""
        self._free += 1
        if not job.outcome.done() and not done.cancelled():
            if error := done.exception():
                job.outcome.set_exception(error)
            else:
                job.outcome.set_result(done.result())
        self._start()

    def _forget(self, owner: object, job: Job) -> None:
        """Take back a job that was not begun."""
        jobs = self._waiting.get(owner, deque[Job]())
        if job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[owner]

    def close(self) -> None:
        """Let what runs finish and drops what waits."""
        self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)


def too_many() -> Problem:
    """Return the refusal of one password more."""
    return unavailable("Too many passwords wait to be hashed", "overload")
