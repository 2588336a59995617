"""FastAPI with SQLAlchemy 2's ORM on asyncpg: a session a request, a unit of work a change."""

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
from sqlalchemy import BigInteger, DateTime, Identity, func, make_url, select, text, true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

URL = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
KEY_HASH = os.environ["KEY_HASH"]

engine = create_async_engine(URL, pool_size=int(os.environ["POOL_SIZE"]), max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
hasher = PasswordHasher(int(os.environ["HASH_PASSES"]), int(os.environ["HASH_MEMORY"]), parallelism=1)
bearer = HTTPBearer()

Ids = Annotated[list[int], Body(embed=True, min_length=1, max_length=1000)]


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    hashed_password: Mapped[str]
    display_name: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=true())
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )


class UserCreate(BaseModel):
    email: Annotated[EmailStr, AfterValidator(str.lower)]
    password: str = Field(min_length=8)
    display_name: str | None = None


class UserUpdate(BaseModel):
    display_name: str | None


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
    query = select(User).order_by(User.id).execution_options(yield_per=1000)
    async for users in (await session.stream_scalars(query)).partitions():
        public = (UserPublic.model_validate(user, from_attributes=True) for user in users)
        yield "".join(user.model_dump_json() + "\n" for user in public)


@app.get("/users/{user_id}", response_model=UserPublic)
async def read_user(user_id: int, session: SessionDep) -> User:
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404)
    return user


@app.get("/users", response_model=UserPage)
async def read_users(
    session: SessionDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: int = 0
) -> Any:
    query = select(User).where(User.id > cursor).order_by(User.id).limit(limit + 1)
    users = (await session.scalars(query)).all()
    more = len(users) > limit
    return {"users": users[:limit], "next_cursor": str(users[limit - 1].id) if more else None}


@app.post("/users/lookup", response_model=UsersFound)
async def look_up_users(ids: Ids, session: SessionDep) -> Any:
    users = await session.scalars(select(User).where(User.id.in_(ids)))
    found = {user.id: user for user in users}
    return {"users": [found.get(id_) for id_ in ids]}


@app.patch("/users/{user_id}", response_model=UserPublic)
async def update_user(user_id: int, change: UserUpdate, session: SessionDep) -> User:
    user = await read_user(user_id, session)
    user.display_name = change.display_name
    user.version = User.version + 1
    await session.commit()
    return user


@app.post("/users", response_model=UserPublic, status_code=201)
async def create_user(new: UserCreate, session: SessionDep, response: Response) -> User:
    hashed = await run_in_threadpool(hasher.hash, new.password)
    user = User(email=new.email, hashed_password=hashed, display_name=new.display_name)
    session.add(user)
    try:
        await session.commit()
    except IntegrityError:
        raise HTTPException(409) from None
    response.headers["Location"] = f"/users/{user.id}"
    return user
