"""API keys: what they are, and whether the key of a request may do what it asks for."""

import hashlib
import logging
import math
import secrets
import time
from asyncio import Task, get_running_loop
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from msgspec import Struct
from starlette.requests import Request

from svc.http.authentication import forbidden, unauthorized
from svc.http.headers import parse_bearer
from svc.http.problems import Problem
from svc.postgres.errors import DatabaseError
from svc.postgres.queries import Queries

KEY_CACHE_TTL = 3.0
"""Seconds that a key is trusted without a look at the database: a revoked one is refused after them."""

TELL_INTERVAL = 60.0
"""Seconds between two lines of the log that an unknown key was refused."""

logger = logging.getLogger("svc")

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
    """Return a new key: 256 random bits behind a prefix that secret scanners can look for."""
    return "bl_" + secrets.token_urlsafe(32)


def hash_token(token: bytes) -> bytes:
    """Return its SHA-256, which is enough for 256 random bits: there is nothing to guess."""
    return hashlib.sha256(token).digest()


async def create_key(
    name: str, scopes: list[str], expires_at: datetime | None, queries: ApiKeyQueries
) -> str:
    """Store a new key as its hash; return the token, which cannot be had again."""
    token = make_token()
    await queries.create_api_key(
        name=name, key_hash=hash_token(token.encode()), scopes=scopes, expires_at=expires_at
    )
    return token


class Keys:
    """Checks the key of each request, in memory where it was seen less than KEY_CACHE_TTL ago.

    An Authenticator (svc/http/authentication.py).
    """

    def __init__(self, queries: ApiKeyQueries) -> None:
        self._queries = queries
        self._seen: dict[bytes, tuple[float, KnownKey]] = {}
        self._told: dict[tuple[int | None, str], float] = {}
        self._renewing: dict[bytes, Task[KnownKey | None]] = {}

    async def authorize(self, request: Request, scope: str) -> None:
        """Note the key in the request. Raises Problem: 401 without one (RFC 6750), 403 without the scope."""
        token = read_token(request)
        key = self._recall(token) or await self._find(token)
        if key is None:
            self._tell(request, 401, None, scope)
            raise unauthorized("The key is unknown, expired or revoked", ', error="invalid_token"')
        request.scope["key_id"] = key.id
        if scope not in key.scopes:
            self._tell(request, 403, key.id, scope)
            raise forbidden(scope)

    def _tell(self, request: Request, status: int, key: int | None, scope: str) -> None:
        """Log who is refused: a key once for each scope, unknown ones once in TELL_INTERVAL."""
        now = time.monotonic()
        if now - self._told.get((key, scope), -math.inf) < (TELL_INTERVAL if key is None else math.inf):
            return
        self._told[key, scope] = now
        client = request.client.host if request.client else None
        fields = {"status": status, "key": key, "scope": scope, "client": client}
        logger.warning("refused", extra={"fields": fields})

    def find_id(self, token: bytes) -> int | None:
        """Return the id of a key that was seen lately."""
        _, key = self._seen.get(token, NEVER)
        return key.id if key else None

    async def knows(self, request: Request) -> bool:
        """Return whether the request has a good key, whatever it may do; False where nobody can tell."""
        try:
            token = read_token(request)
            return (self._recall(token) or await self._find(token)) is not None
        except (Problem, DatabaseError):
            return False

    def allows(self, token: bytes, scope: str) -> bool:
        """Return whether a key that was seen lately has the scope: 0.2 µs."""
        seen, key = self._seen.get(token, NEVER)
        if key is None or scope not in key.scopes:
            return False
        return time.monotonic() - seen < KEY_CACHE_TTL / 2 or self._recall(token) is not None

    def _recall(self, token: bytes) -> KnownKey | None:
        """Return a key seen lately; half-way through its time it is looked at again, while nobody waits."""
        seen, key = self._seen.get(token, NEVER)
        age = time.monotonic() - seen
        if age < KEY_CACHE_TTL / 2 or key is None:
            return key
        if token not in self._renewing:
            task = self._renewing[token] = get_running_loop().create_task(self._renew(token))
            task.add_done_callback(lambda _: self._renewing.pop(token))
        return key if age < KEY_CACHE_TTL else None

    async def _renew(self, token: bytes) -> KnownKey | None:
        """Look at the database, and fail in silence: the next request that needs it says why."""
        with suppress(Exception):
            return await self._find(token)
        return None

    async def _find(self, token: bytes) -> KnownKey | None:
        """Return the key of a token, out of the database; None where it lets nobody in."""
        asked = time.monotonic()
        key = await self._queries.get_api_key(key_hash=hash_token(token))
        if key is None:
            self._seen.pop(token, None)
        else:
            self._seen[token] = asked, key
        return key


def read_token(request: Request) -> bytes:
    """Return the bearer token. Raises Problem 401."""
    for name, value in request.scope["headers"]:
        if name == b"authorization" and (token := parse_bearer(value)):
            return token
    raise unauthorized("Expected the header Authorization: Bearer <key>")
