"""The lower rungs of the ladder: Starlette and asyncpg, each with one thing more than the one before it.

`RUNG` names the one that is served. See bench/ladder.py.
"""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.postgres.connection import Connection, UnpreparedConnection
from svc.postgres.pool import Database
from svc.users.handlers import UserQueries
from svc.users.rows import StoredUser

RUNGS = {
    "pool": "Starlette + `asyncpg.Pool`, as everyone writes it",
    "no_reset": "and no reset query when a connection comes back",
    "lending": "and connections lent by our pool, without a proxy and a shielded task; bound queries",
    "statements": "and one statement kept for each query, instead of asyncpg's cache",
    "msgspec": "and msgspec instead of `json` and dictionaries",
}
LEVEL = list(RUNGS).index(os.environ.get("RUNG", "pool"))
SQL = "select id, email, display_name, is_active, created_at from users where id = $1"


class NoReset(asyncpg.Connection):
    """A connection that comes back to the pool as it was."""

    def get_reset_query(self) -> str:
        """Return no query."""
        return ""


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Give the one route what it asks for a row."""
    url, size = os.environ["DATABASE_URL"], int(os.environ["POOL_SIZE"])
    if LEVEL < 2:
        kind: Any = NoReset if LEVEL else asyncpg.Connection
        async with asyncpg.create_pool(url, min_size=size, max_size=size, connection_class=kind) as pool:
            yield {"ask": lambda id_: pool.fetchrow(SQL, id_)}
        return
    if LEVEL == 2:
        Connection.fetch_one = UnpreparedConnection.fetch_one  # type: ignore[assignment, method-assign]
    database = Database(Config(database_url=DatabaseUrl(url), pool_size=size))
    users = UserQueries.bind(database)
    yield {"ask": lambda id_: users.get_user(id=id_, with_profile=False)}
    await database.close()


async def get_user(request: Request) -> Response:
    """Answer a point read behind a key."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    key_hash = hashlib.sha256(key.encode()).hexdigest()
    if scheme.lower() != "bearer" or not secrets.compare_digest(key_hash, os.environ["KEY_HASH"]):
        raise HTTPException(401)
    user = await request.state.ask(request.path_params["id"])
    if user is None:
        raise HTTPException(404)
    if LEVEL == 4:
        return Response(msgspec.json.encode(user.public()), media_type="application/json")
    return JSONResponse(to_json(user))


def to_json(user: Any) -> dict[str, Any]:
    """Return a row, or a struct of one, as `json` takes it."""
    if isinstance(user, StoredUser):
        return {
            field: getattr(user, field)
            for field in ("id", "email", "display_name", "is_active", "created_at")
        }
    return {**user, "created_at": user["created_at"].isoformat()}


app = Starlette(routes=[Route("/users/{id:int}", get_user)], lifespan=lifespan)
