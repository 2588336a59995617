"""FastAPI with psycopg 3's async pool: SQL by hand, rows as Pydantic models, COPY for many users at once."""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

from argon2 import PasswordHasher
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from psycopg.errors import UniqueViolation
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool
from pydantic import AfterValidator, BaseModel, EmailStr, Field, ValidationError

COLUMNS = "id, email, display_name, is_active, created_at"
KEY_HASH = os.environ["KEY_HASH"]

hasher = PasswordHasher(int(os.environ["HASH_PASSES"]), int(os.environ["HASH_MEMORY"]), parallelism=1)
bearer = HTTPBearer()

Ids = Annotated[list[int], Body(embed=True, min_length=1, max_length=1000)]
DisplayName = Annotated[str | None, Body(embed=True)]


class UserBase(BaseModel):
    email: Annotated[EmailStr, AfterValidator(str.lower)]
    display_name: str | None = None


class UserCreate(UserBase):
    password: str = Field(min_length=8)


class UserImport(UserBase):
    hashed_password: str


class User(BaseModel):
    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: datetime


class UserPage(BaseModel):
    users: list[User]
    next_cursor: str | None


class NDJSONResponse(StreamingResponse):
    media_type = "application/x-ndjson"


# A request is one statement: with autocommit none has a BEGIN and a COMMIT around it.
OPTIONS = {"autocommit": True, "row_factory": class_row(User)}
SIZE = int(os.environ["POOL_SIZE"])
pool = AsyncConnectionPool(os.environ["DATABASE_URL"], kwargs=OPTIONS, min_size=SIZE, open=False)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with pool:
        yield


async def check_key(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> None:
    key_hash = hashlib.sha256(credentials.credentials.encode()).hexdigest()
    if not secrets.compare_digest(key_hash, KEY_HASH):
        raise HTTPException(401)


app = FastAPI(lifespan=lifespan, dependencies=[Depends(check_key)])


async def fetch(query: str, *values: object) -> list[User]:
    async with pool.connection() as connection:
        return await (await connection.execute(query, values)).fetchall()


@app.get("/users/export", response_class=NDJSONResponse)
async def export_users() -> AsyncIterator[str]:
    async with pool.connection() as conn, conn.transaction(), conn.cursor("export") as cursor:
        await cursor.execute(f"select {COLUMNS} from users order by id")
        while users := await cursor.fetchmany(1000):
            yield "".join(user.model_dump_json() + "\n" for user in users)


@app.post("/users/import")
async def import_users(request: Request) -> dict[str, int]:
    query = "copy users (email, hashed_password, display_name) from stdin"
    try:
        users = [UserImport.model_validate_json(line) for line in (await request.body()).splitlines()]
        async with pool.connection() as conn, conn.cursor() as cursor, cursor.copy(query) as copy:
            for user in users:
                await copy.write_row((user.email, user.hashed_password, user.display_name))
    except (ValidationError, UniqueViolation):
        raise HTTPException(422, "A line does not fit, or an email is taken") from None
    return {"created": len(users)}


@app.get("/users/{user_id}")
async def read_user(user_id: int) -> User:
    users = await fetch(f"select {COLUMNS} from users where id = %s", user_id)
    if not users:
        raise HTTPException(404)
    return users[0]


@app.get("/users")
async def read_users(limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: int = 0) -> UserPage:
    users = await fetch(f"select {COLUMNS} from users where id > %s order by id limit %s", cursor, limit + 1)
    more = len(users) > limit
    return UserPage(users=users[:limit], next_cursor=str(users[limit - 1].id) if more else None)


@app.post("/users/lookup")
async def look_up_users(ids: Ids) -> dict[str, list[User | None]]:
    query = f"select {COLUMNS} from users where id = any(%s)"
    found = {user.id: user for user in await fetch(query, ids)}
    return {"users": [found.get(id_) for id_ in ids]}


@app.patch("/users/{user_id}")
async def update_user(user_id: int, display_name: DisplayName) -> User:
    query = "update users set display_name = %s, version = version + 1, updated_at = now() where id = %s"
    users = await fetch(f"{query} returning {COLUMNS}", display_name, user_id)
    if not users:
        raise HTTPException(404)
    return users[0]


@app.post("/users", status_code=201)
async def create_user(new: UserCreate, response: Response) -> User:
    hashed = await run_in_threadpool(hasher.hash, new.password)
    query = "insert into users (email, hashed_password, display_name) values (%s, %s, %s)"
    try:
        (user,) = await fetch(f"{query} returning {COLUMNS}", new.email, hashed, new.display_name)
    except UniqueViolation:
        raise HTTPException(409) from None
    response.headers["Location"] = f"/users/{user.id}"
    return user
