"""FastAPI with psycopg2 in the thread pool: as many threads as connections, so that none lacks one."""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from anyio.to_thread import current_default_thread_limiter
from argon2 import PasswordHasher
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from psycopg2.errors import UniqueViolation
from psycopg2.extras import RealDictCursor
from psycopg2.pool import ThreadedConnectionPool
from pydantic import AfterValidator, BaseModel, EmailStr, Field

COLUMNS = "id, email, display_name, is_active, created_at"
KEY_HASH = os.environ["KEY_HASH"]
SIZE = int(os.environ["POOL_SIZE"])

pool = ThreadedConnectionPool(SIZE, SIZE, os.environ["DATABASE_URL"], cursor_factory=RealDictCursor)
hasher = PasswordHasher(int(os.environ["HASH_PASSES"]), int(os.environ["HASH_MEMORY"]), parallelism=1)
bearer = HTTPBearer()

Ids = Annotated[list[int], Body(embed=True, min_length=1, max_length=1000)]
DisplayName = Annotated[str | None, Body(embed=True)]
Row = dict[str, Any]


class UserCreate(BaseModel):
    email: Annotated[EmailStr, AfterValidator(str.lower)]
    password: str = Field(min_length=8)
    display_name: str | None = None


class UserPublic(BaseModel):
    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: datetime


class UserPage(BaseModel):
    users: list[UserPublic]
    next_cursor: str | None


class UsersFound(BaseModel):
    users: list[UserPublic | None]


class NDJSONResponse(StreamingResponse):
    media_type = "application/x-ndjson"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = SIZE
    yield
    pool.closeall()


async def check_key(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> None:
    key_hash = hashlib.sha256(credentials.credentials.encode()).hexdigest()
    if not secrets.compare_digest(key_hash, KEY_HASH):
        raise HTTPException(401)


app = FastAPI(lifespan=lifespan, dependencies=[Depends(check_key)])


# A dependency would hold its connection between two turns in the thread pool, and others would find none:
# psycopg2's pool does not wait. A request is one statement, which needs no BEGIN and COMMIT around it.
def fetch(query: str, *values: object) -> list[Row]:
    connection = pool.getconn()
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()
    finally:
        pool.putconn(connection)


@app.get("/users/export", response_class=NDJSONResponse)
def export_users() -> Iterator[str]:
    last = 0
    while users := fetch(f"select {COLUMNS} from users where id > %s order by id limit 1000", last):
        yield "".join(UserPublic.model_validate(user).model_dump_json() + "\n" for user in users)
        last = users[-1]["id"]


@app.get("/users/{user_id}", response_model=UserPublic)
def read_user(user_id: int) -> Row:
    users = fetch(f"select {COLUMNS} from users where id = %s", user_id)
    if not users:
        raise HTTPException(404)
    return users[0]


@app.get("/users", response_model=UserPage)
def read_users(limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: int = 0) -> Row:
    users = fetch(f"select {COLUMNS} from users where id > %s order by id limit %s", cursor, limit + 1)
    more = len(users) > limit
    return {"users": users[:limit], "next_cursor": str(users[limit - 1]["id"]) if more else None}


@app.post("/users/lookup", response_model=UsersFound)
def look_up_users(ids: Ids) -> Row:
    users = fetch(f"select {COLUMNS} from users where id = any(%s)", ids)
    found = {user["id"]: user for user in users}
    return {"users": [found.get(id_) for id_ in ids]}


@app.patch("/users/{user_id}", response_model=UserPublic)
def update_user(user_id: int, display_name: DisplayName) -> Row:
    query = "update users set display_name = %s, version = version + 1, updated_at = now() where id = %s"
    users = fetch(f"{query} returning {COLUMNS}", display_name, user_id)
    if not users:
        raise HTTPException(404)
    return users[0]


@app.post("/users", response_model=UserPublic, status_code=201)
def create_user(new: UserCreate, response: Response) -> Row:
    hashed = hasher.hash(new.password)
    query = "insert into users (email, hashed_password, display_name) values (%s, %s, %s)"
    try:
        (user,) = fetch(f"{query} returning {COLUMNS}", new.email, hashed, new.display_name)
    except UniqueViolation:
        raise HTTPException(409) from None
    response.headers["Location"] = f"/users/{user['id']}"
    return user
