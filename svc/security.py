"""API keys, scopes and passwords."""

import hashlib
import secrets
import time
from asyncio import Task, get_running_loop, wrap_future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Literal, Protocol, TypeVar, get_args

import argon2
from msgspec import Struct
from starlette.requests import Request

from svc.config import Config
from svc.errors import Problem, unavailable
from svc.headers import parse_bearer
from svc.sql import Queries
from svc.structs import Password

T = TypeVar("T")

AccessScope = Literal["users:read", "users:write"]
SCOPES: tuple[AccessScope, ...] = get_args(AccessScope)

KEPT = 3.0
"""Seconds that a key is trusted without a look at the database: a revoked one is refused after them."""


NEVER: tuple[float, None] = (0.0, None)


class KnownKey(Struct, frozen=True, gc=False):
    """What a request needs to know of its key."""

    id: int
    scopes: list[str]


class ApiKey(Struct, frozen=True):
    """A key as its owner sees it."""

    id: int
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class ApiKeyQueries(Queries, Protocol, file="api_keys.sql"):
    """queries/api_keys.sql"""

    async def create_api_key(
        self, *, name: str, key_hash: bytes, scopes: list[str], expires_at: datetime | None
    ) -> int: ...
    async def get_api_key(self, *, key_hash: bytes) -> KnownKey | None: ...
    async def list_api_keys(self) -> list[ApiKey]: ...
    async def revoke_api_key(self, *, id: int) -> int: ...


def make_token() -> str:
    """A new key: 256 random bits behind a prefix that secret scanners can look for."""
    return "bl_" + secrets.token_urlsafe(32)


def hash_token(token: bytes) -> bytes:
    """SHA-256 is enough for 256 random bits: there is nothing to guess."""
    return hashlib.sha256(token).digest()


async def create_key(
    name: str, scopes: list[str], expires_at: datetime | None, queries: ApiKeyQueries
) -> str:
    """A new key, stored as its hash: the token, which cannot be had again."""
    token = make_token()
    await queries.create_api_key(
        name=name, key_hash=hash_token(token.encode()), scopes=scopes, expires_at=expires_at
    )
    return token


class Keys:
    """Checks the key of each request, in memory where it was seen less than KEPT seconds ago."""

    def __init__(self, queries: ApiKeyQueries) -> None:
        self._queries = queries
        self._seen: dict[bytes, tuple[float, KnownKey]] = {}
        self._renewing: dict[bytes, Task[KnownKey | None]] = {}

    async def authorize(self, request: Request, scope: str) -> None:
        """Notes the key in the request. Raises Problem: 401 without one (RFC 6750), 403 without the scope."""
        token = read_token(request)
        key = self._recall(token) or await self._find(token)
        if key is None:
            raise unauthorized("The key is unknown, expired or revoked", ', error="invalid_token"')
        request.scope["key_id"] = key.id
        if scope not in key.scopes:
            challenge = f'Bearer realm="bareline", error="insufficient_scope", scope="{scope}"'
            raise Problem(403, f"The key lacks the scope {scope}", headers={"WWW-Authenticate": challenge})

    def knows(self, token: bytes, scope: str) -> bool:
        """Whether a key that was seen lately has the scope: 0.2 µs."""
        seen, key = self._seen.get(token, NEVER)
        if key is None or scope not in key.scopes:
            return False
        return time.monotonic() - seen < KEPT / 2 or self._recall(token) is not None

    def _recall(self, token: bytes) -> KnownKey | None:
        """A key seen lately; half-way through its time it is looked at again, while nobody waits."""
        seen, key = self._seen.get(token, NEVER)
        age = time.monotonic() - seen
        if age < KEPT / 2 or key is None:
            return key
        if token not in self._renewing:
            task = self._renewing[token] = get_running_loop().create_task(self._renew(token))
            task.add_done_callback(lambda _: self._renewing.pop(token))
        return key if age < KEPT else None

    async def _renew(self, token: bytes) -> KnownKey | None:
        """A look at the database that fails in silence: the next request that needs it says why."""
        with suppress(Exception):
            return await self._find(token)
        return None

    async def _find(self, token: bytes) -> KnownKey | None:
        """The key of a token, in the database; None where it lets nobody in."""
        asked = time.monotonic()
        key = await self._queries.get_api_key(key_hash=hash_token(token))
        if key is None:
            self._seen.pop(token, None)
        else:
            self._seen[token] = asked, key
        return key


def read_token(request: Request) -> bytes:
    """The bearer token. Raises Problem 401."""
    for name, value in request.scope["headers"]:
        if name == b"authorization" and (token := parse_bearer(value)):
            return token
    raise unauthorized("Expected the header Authorization: Bearer <key>")


def unauthorized(detail: str, parameters: str = "") -> Problem:
    """401 with its challenge."""
    return Problem(401, detail, headers={"WWW-Authenticate": f'Bearer realm="bareline"{parameters}'})


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
        """The PHC string. Raises Problem 503 when too many wait."""
        return await self._run(self._hasher.hash, str(password))

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except argon2.exceptions.VerifyMismatchError:
            return False

    async def _run(self, work: Callable[..., T], *arguments: str) -> T:
        if self._jobs >= self._bound:
            raise unavailable("Too many passwords wait to be hashed", "overload")
        self._jobs += 1
        loop = get_running_loop()
        job = self._threads.submit(work, *arguments)
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finish))
        return await wrap_future(job)

    async def verify(self, hashed: str, password: Password) -> bool:
        """Whether it is the password that was hashed. Raises Problem 503 when too many wait."""
        return await self._run(self._matches, hashed, str(password))

    def close(self) -> None:
        """Lets what runs finish and drops what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _finish(self) -> None:
        self._jobs -= 1
