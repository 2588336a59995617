"""Starlette with asyncpg's pool: SQL by hand, rows to dictionaries, Pydantic for what comes in."""

import hashlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
from argon2 import PasswordHasher
from pydantic import AfterValidator, BaseModel, EmailStr, Field
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

COLUMNS = "id, email, display_name, is_active, created_at"
KEY_HASH = os.environ["KEY_HASH"]
SIZE = int(os.environ["POOL_SIZE"])

hasher = PasswordHasher(int(os.environ["HASH_PASSES"]), int(os.environ["HASH_MEMORY"]), parallelism=1)


class NewUser(BaseModel):
    email: Annotated[EmailStr, AfterValidator(str.lower)]
    password: str = Field(min_length=8)
    display_name: str | None = None


class ImportedUser(BaseModel):
    email: Annotated[EmailStr, AfterValidator(str.lower)]
    hashed_password: str
    display_name: str | None = None


class Change(BaseModel):
    display_name: str | None


class Lookup(BaseModel):
    ids: list[int] = Field(min_length=1, max_length=1000)


class BearerBackend(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        scheme, _, key = conn.headers.get("Authorization", "").partition(" ")
        key_hash = hashlib.sha256(key.encode()).hexdigest()
        if scheme.lower() != "bearer" or not secrets.compare_digest(key_hash, KEY_HASH):
            raise AuthenticationError("Expected the bearer key")
        return AuthCredentials(["authenticated"]), SimpleUser("bench")


def refuse(status: int) -> Callable[[HTTPConnection, Exception], Response]:
    return lambda _, error: JSONResponse({"detail": str(error)}, status)


def to_json(user: asyncpg.Record) -> dict[str, Any]:
    return {**user, "created_at": user["created_at"].isoformat()}


async def get_user(request: Request) -> Response:
    query = f"select {COLUMNS} from users where id = $1"
    user = await request.state.pool.fetchrow(query, request.path_params["id"])
    if user is None:
        raise HTTPException(404)
    return JSONResponse(to_json(user))


async def list_users(request: Request) -> Response:
    limit = int(request.query_params.get("limit", 100))
    cursor = int(request.query_params.get("cursor", 0))
    if not 1 <= limit <= 1000:
        raise HTTPException(422)
    query = f"select {COLUMNS} from users where id > $1 order by id limit $2"
    users = await request.state.pool.fetch(query, cursor, limit + 1)
    page = [to_json(user) for user in users[:limit]]
    return JSONResponse({"users": page, "next_cursor": str(page[-1]["id"]) if len(users) > limit else None})


async def look_up_users(request: Request) -> Response:
    ids = Lookup.model_validate_json(await request.body()).ids
    users = await request.state.pool.fetch(f"select {COLUMNS} from users where id = any($1)", ids)
    found = {user["id"]: to_json(user) for user in users}
    return JSONResponse({"users": [found.get(id_) for id_ in ids]})


async def update_user(request: Request) -> Response:
    change = Change.model_validate_json(await request.body())
    query = "update users set display_name = $1, version = version + 1, updated_at = now() where id = $2"
    values = change.display_name, request.path_params["id"]
    user = await request.state.pool.fetchrow(f"{query} returning {COLUMNS}", *values)
    if user is None:
        raise HTTPException(404)
    return JSONResponse(to_json(user))


async def create_user(request: Request) -> Response:
    new = NewUser.model_validate_json(await request.body())
    query = "insert into users (email, hashed_password, display_name) values ($1, $2, $3)"
    hashed = await run_in_threadpool(hasher.hash, new.password)
    values = new.email, hashed, new.display_name
    user = await request.state.pool.fetchrow(f"{query} returning {COLUMNS}", *values)
    return JSONResponse(to_json(user), 201, {"Location": f"/users/{user['id']}"})


async def export_users(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        async with request.state.pool.acquire() as connection, connection.transaction():
            cursor = await connection.cursor(f"select {COLUMNS} from users order by id")
            while users := await cursor.fetch(1000):
                yield "".join(json.dumps(to_json(user)) + "\n" for user in users)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def import_users(request: Request) -> Response:
    users = [ImportedUser.model_validate_json(line) for line in (await request.body()).splitlines()]
    records = [(user.email, user.hashed_password, user.display_name) for user in users]
    columns = ["email", "hashed_password", "display_name"]
    await request.state.pool.copy_records_to_table("users", records=records, columns=columns)
    return JSONResponse({"created": len(records)})


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=SIZE, max_size=SIZE) as pool:
        yield {"pool": pool}


app = Starlette(
    routes=[
        Route("/users/export", export_users),
        Route("/users/import", import_users, methods=["POST"]),
        Route("/users/lookup", look_up_users, methods=["POST"]),
        Route("/users/{id:int}", get_user),
        Route("/users/{id:int}", update_user, methods=["PATCH"]),
        Route("/users", list_users),
        Route("/users", create_user, methods=["POST"]),
    ],
    exception_handlers={ValueError: refuse(422), asyncpg.UniqueViolationError: refuse(409)},
    lifespan=lifespan,
)
app.add_middleware(AuthenticationMiddleware, backend=BearerBackend(), on_error=refuse(401))
