"""Passwords, and their hashes."""

import re
from asyncio import get_running_loop, wrap_future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Self, TypeVar

import argon2

from svc.config import Config
from svc.http.problems import unavailable
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


class Passwords:
    """Hashes passwords with argon2id, in a small pool of threads of its own.

    The defaults are OWASP's floor (19 MiB, 2 passes, 1 lane): 23 ms of one core here. A slot belongs to
    the job and not to the request, so clients that hang up cannot get past the bound.
    """

    def __init__(self, config: Config) -> None:
        self._hasher = argon2.PasswordHasher(
            time_cost=config.hash_passes, memory_cost=config.hash_memory, parallelism=1
        )
        self._threads = ThreadPoolExecutor(config.hash_threads, thread_name_prefix="argon2")
        self._bound = config.hash_threads + config.hash_queue
        self._jobs = 0

    async def hash(self, password: Password) -> str:
        """Return the PHC string. Raises Problem 503 when too many wait."""
        return await self._run(self._hasher.hash, str(password))

    def _matches(self, hashed: Secret[str], password: str) -> bool:
        try:
            return self._hasher.verify(reveal(hashed), password)
        except argon2.exceptions.VerifyMismatchError:
            return False

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._jobs >= self._bound:
            raise unavailable("Too many passwords wait to be hashed", "overload")
        self._jobs += 1
        loop = get_running_loop()
        job = self._threads.submit(work, *arguments)
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finish))
        return await wrap_future(job)

    async def verify(self, hashed: Secret[str], password: Password) -> bool:
        """Return whether it is the password that was hashed. Raises Problem 503 when too many wait."""
        return await self._run(self._matches, hashed, str(password))

    def close(self) -> None:
        """Let what runs finish and drops what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _finish(self) -> None:
        self._jobs -= 1
