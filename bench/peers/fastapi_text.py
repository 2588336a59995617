"""FastAPI with SQL in text(), run by SQLAlchemy's session: its pool and transactions, none of its mapping."""

import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from argon2 import PasswordHasher
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, BaseModel, EmailStr, Field
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

URL = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
KEY_HASH = os.environ["KEY_HASH"]

engine = create_async_engine(URL, pool_size=int(os.environ["POOL_SIZE"]), max_overflow=0)
sessions = async_sessionmaker(engine)
hasher = PasswordHasher(int(os.environ["HASH_PASSES"]), int(os.environ["HASH_MEMORY"]), parallelism=1)
bearer = HTTPBearer()

Ids = Annotated[list[int], Body(embed=True, min_length=1, max_length=1000)]
DisplayName = Annotated[str | None, Body(embed=True)]

COLUMNS = "id, email, display_name, is_active, created_at"
EXPORT = text(f"select {COLUMNS} from users order by id")
GET = text(f"select {COLUMNS} from users where id = :id")
LIST = text(f"select {COLUMNS} from users where id > :cursor order by id limit :limit")
LOOK_UP = text(f"select {COLUMNS} from users where id = any(:ids)")
UPDATE = text(
    "update users set display_name = :display_name, version = version + 1, updated_at = now()"
    f" where id = :id returning {COLUMNS}"
)
CREATE = text(
    "insert into users (email, hashed_password, display_name)"
    f" values (:email, :hashed_password, :display_name) returning {COLUMNS}"
)


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


async def get_session() -> AsyncGenerator[AsyncSession]:
    async with sessions() as session:
        yield session


async def check_key(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> None:
    key_hash = hashlib.sha256(credentials.credentials.encode()).hexdigest()
    if not secrets.compare_digest(key_hash, KEY_HASH):
        raise HTTPException(401)


SessionDep = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI(dependencies=[Depends(check_key)])


@app.get("/users/export", response_class=NDJSONResponse)
async def export_users(session: SessionDep) -> AsyncIterator[str]:
    result = await session.stream(EXPORT, execution_options={"yield_per": 1000})
    async for rows in result.mappings().partitions():
        yield "".join(UserPublic.model_validate(row).model_dump_json() + "\n" for row in rows)


@app.get("/users/{user_id}", response_model=UserPublic)
async def read_user(user_id: int, session: SessionDep) -> Any:
    user = (await session.execute(GET, {"id": user_id})).mappings().one_or_none()
    if user is None:
        raise HTTPException(404)
    return user


@app.get("/users", response_model=UserPage)
async def read_users(
    session: SessionDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: int = 0
) -> Any:
    result = await session.execute(LIST, {"cursor": cursor, "limit": limit + 1})
    users = result.mappings().all()
    more = len(users) > limit
    return {"users": users[:limit], "next_cursor": str(users[limit - 1]["id"]) if more else None}


@app.post("/users/lookup", response_model=UsersFound)
async def look_up_users(ids: Ids, session: SessionDep) -> Any:
    result = await session.execute(LOOK_UP, {"ids": ids})
    found = {user["id"]: user for user in result.mappings()}
    return {"users": [found.get(id_) for id_ in ids]}


@app.patch("/users/{user_id}", response_model=UserPublic)
async def update_user(user_id: int, display_name: DisplayName, session: SessionDep) -> Any:
    result = await session.execute(UPDATE, {"id": user_id, "display_name": display_name})
    user = result.mappings().one_or_none()
    await session.commit()
    if user is None:
        raise HTTPException(404)
    return user


@app.post("/users", response_model=UserPublic, status_code=201)
async def create_user(new: UserCreate, session: SessionDep, response: Response) -> Any:
    hashed = await run_in_threadpool(hasher.hash, new.password)
    values = {"email": new.email, "hashed_password": hashed, "display_name": new.display_name}
    try:
        user = (await session.execute(CREATE, values)).mappings().one()
    except IntegrityError:
        raise HTTPException(409) from None
    await session.commit()
    response.headers["Location"] = f"/users/{user['id']}"
    return user
