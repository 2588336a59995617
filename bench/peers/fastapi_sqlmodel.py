"""The same route as its documentation would write it: FastAPI, SQLModel, an async session a request."""

import hashlib
import os
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Column, DateTime
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlmodel import Field, SQLModel


class UserResponse(SQLModel):
    """What clients see."""

    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: datetime


class User(SQLModel, table=True):
    """What is stored."""

    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True)
    email: str = Field(unique=True)
    hashed_password: str
    display_name: str | None = None
    is_active: bool = True
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


engine = create_async_engine(os.environ["PEER_DATABASE_URL"], pool_size=20, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
bearer = HTTPBearer()
KEY_HASH = bytes.fromhex(os.environ["PEER_KEY_HASH"])


async def get_session() -> AsyncGenerator[AsyncSession, None]:
    """A session for as long as the request lasts."""
    async with sessions() as session:
        yield session


async def check_key(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> None:
    """The key's hash, compared in memory: no query that the service would not make either."""
    if hashlib.sha256(credentials.credentials.encode()).digest() != KEY_HASH:
        raise HTTPException(401)


app = FastAPI()


@app.get("/users/{user_id}", response_model=UserResponse, dependencies=[Depends(check_key)])
async def get_user(user_id: int, session: Annotated[AsyncSession, Depends(get_session)]) -> User:
    """One user."""
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404)
    return user
