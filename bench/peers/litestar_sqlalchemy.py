"""Litestar with SQLAlchemy 2's ORM on asyncpg: a transaction is injected, msgspec structs go in and out."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import Annotated, ClassVar

from argon2 import PasswordHasher
from email_validator import validate_email
from litestar import Litestar, Request, Response, get, patch, post
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter
from msgspec import Meta, Struct, convert
from sqlalchemy import BigInteger, DateTime, Identity, func, make_url, select, text, true
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

URL = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
KEY_HASH = os.environ["KEY_HASH"]

engine = create_async_engine(URL, pool_size=int(os.environ["POOL_SIZE"]), max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
hasher = PasswordHasher(int(os.environ["HASH_PASSES"]), int(os.environ["HASH_MEMORY"]), parallelism=1)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {datetime: DateTime(timezone=True), int: BigInteger}


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    hashed_password: Mapped[str]
    display_name: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=true())
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class NewUser(Struct):
    email: str
    password: Annotated[str, Meta(min_length=8)]
    display_name: str | None = None

    def __post_init__(self) -> None:
        self.email = validate_email(self.email, check_deliverability=False).normalized.lower()


class Change(Struct):
    display_name: str | None


class Lookup(Struct):
    ids: Annotated[list[int], Meta(min_length=1, max_length=1000)]


class PublicUser(Struct):
    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: datetime


class UserPage(Struct):
    users: list[PublicUser]
    next_cursor: str | None


async def provide_transaction() -> AsyncGenerator[AsyncSession, None]:
    async with sessions() as session, session.begin():
        yield session


def check_key(connection: ASGIConnection, _: BaseRouteHandler) -> None:
    scheme, _, key = connection.headers.get("Authorization", "").partition(" ")
    key_hash = hashlib.sha256(key.encode()).hexdigest()
    if scheme.lower() != "bearer" or not secrets.compare_digest(key_hash, KEY_HASH):
        raise NotAuthorizedException


def answer(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, error: Response({"errors": getattr(error, "extra", None)}, status_code=status)


def public(user: User) -> PublicUser:
    return convert(user, PublicUser, from_attributes=True)


@get("/users/{user_id:int}")
async def read_user(user_id: int, transaction: AsyncSession) -> PublicUser:
    return public(await transaction.get_one(User, user_id))


@get("/users")
async def read_users(
    transaction: AsyncSession, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100, cursor: int = 0
) -> UserPage:
    query = select(User).where(User.id > cursor).order_by(User.id).limit(limit + 1)
    users = [public(user) for user in await transaction.scalars(query)]
    more = len(users) > limit
    return UserPage(users[:limit], str(users[limit - 1].id) if more else None)


@post("/users/lookup", status_code=200)
async def look_up_users(data: Lookup, transaction: AsyncSession) -> dict[str, list[PublicUser | None]]:
    users = await transaction.scalars(select(User).where(User.id.in_(data.ids)))
    found = {user.id: public(user) for user in users}
    return {"users": [found.get(id_) for id_ in data.ids]}


@patch("/users/{user_id:int}")
async def update_user(user_id: int, data: Change, transaction: AsyncSession) -> PublicUser:
    user = await transaction.get_one(User, user_id)
    user.display_name = data.display_name
    user.version = User.version + 1
    return public(user)


@post("/users")
async def create_user(data: NewUser, transaction: AsyncSession) -> Response[PublicUser]:
    hashed = await asyncio.to_thread(hasher.hash, data.password)
    user = User(email=data.email, hashed_password=hashed, display_name=data.display_name)
    transaction.add(user)
    await transaction.flush()
    return Response(public(user), headers={"Location": f"/users/{user.id}"})


app = Litestar(
    [read_user, read_users, look_up_users, update_user, create_user],
    dependencies={"transaction": provide_transaction},
    exception_handlers={
        IntegrityError: answer(409),
        NoResultFound: answer(404),
        ValidationException: answer(422),
    },
    guards=[check_key],
    openapi_config=None,
)
