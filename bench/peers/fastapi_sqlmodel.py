"""FastAPI with SQLModel on asyncpg: classes for the table, for what comes in, for what goes out."""

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
from pydantic import AfterValidator, EmailStr
from sqlalchemy import BigInteger, DateTime, func, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

URL = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
KEY_HASH = os.environ["KEY_HASH"]

engine = create_async_engine(URL, pool_size=int(os.environ["POOL_SIZE"]), max_overflow=0)
hasher = PasswordHasher(int(os.environ["HASH_PASSES"]), int(os.environ["HASH_MEMORY"]), parallelism=1)
bearer = HTTPBearer()

Ids = Annotated[list[int], Body(embed=True, min_length=1, max_length=1000)]


class UserBase(SQLModel):
    email: str = Field(unique=True)
    display_name: str | None = None


class User(UserBase, table=True):
    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    hashed_password: str
    is_active: bool = True
    version: int = Field(default=1, sa_type=BigInteger)
    created_at: datetime | None = Field(
        default=None, sa_type=DateTime(timezone=True), sa_column_kwargs={"server_default": func.now()}
    )
    updated_at: datetime | None = Field(
        default=None,
        sa_type=DateTime(timezone=True),
        sa_column_kwargs={"server_default": func.now(), "onupdate": func.now()},
    )


class UserCreate(UserBase):
    email: Annotated[EmailStr, AfterValidator(str.lower)]
    password: str = Field(min_length=8)


class UserUpdate(SQLModel):
    display_name: str | None


class UserPublic(UserBase):
    id: int
    is_active: bool
    created_at: datetime


class UserPage(SQLModel):
    users: list[UserPublic]
    next_cursor: str | None


class UsersFound(SQLModel):
    users: list[UserPublic | None]


class NDJSONResponse(StreamingResponse):
    media_type = "application/x-ndjson"


async def get_session() -> AsyncGenerator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


async def check_key(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> None:
    key_hash = hashlib.sha256(credentials.credentials.encode()).hexdigest()
    if not secrets.compare_digest(key_hash, KEY_HASH):
        raise HTTPException(401)


SessionDep = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI(dependencies=[Depends(check_key)])


@app.get("/users/export", response_class=NDJSONResponse)
async def export_users(session: SessionDep) -> AsyncIterator[str]:
    query = select(User).order_by(col(User.id)).execution_options(yield_per=1000)
    async for users in (await session.stream_scalars(query)).partitions():
        public = (UserPublic.model_validate(user) for user in users)
        yield "".join(user.model_dump_json() + "\n" for user in public)


@app.get("/users/{user_id}", response_model=UserPublic)
async def read_user(user_id: int, session: SessionDep) -> User:
    user = await session.get(User, user_id)
    if not user:
        raise HTTPException(404)
    return user


@app.get("/users", response_model=UserPage)
async def read_users(
    session: SessionDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: int = 0
) -> Any:
    query = select(User).where(col(User.id) > cursor).order_by(col(User.id)).limit(limit + 1)
    users = (await session.exec(query)).all()
    more = len(users) > limit
    return {"users": users[:limit], "next_cursor": str(users[limit - 1].id) if more else None}


@app.post("/users/lookup", response_model=UsersFound)
async def look_up_users(ids: Ids, session: SessionDep) -> Any:
    users = await session.exec(select(User).where(col(User.id).in_(ids)))
    found = {user.id: user for user in users}
    return {"users": [found.get(id_) for id_ in ids]}


@app.patch("/users/{user_id}", response_model=UserPublic)
async def update_user(user_id: int, change: UserUpdate, session: SessionDep) -> User:
    user = await read_user(user_id, session)
    user.sqlmodel_update(change, update={"version": User.version + 1})
    session.add(user)
    await session.commit()
    return user


@app.post("/users", response_model=UserPublic, status_code=201)
async def create_user(new: UserCreate, session: SessionDep, response: Response) -> User:
    hashed = await run_in_threadpool(hasher.hash, new.password)
    user = User.model_validate(new, update={"hashed_password": hashed})
    session.add(user)
    try:
        await session.commit()
    except IntegrityError:
        raise HTTPException(409) from None
    response.headers["Location"] = f"/users/{user.id}"
    return user
