"""Many users, and their batchers as the app makes them."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from svc.accounts.passwords import Passwords
from svc.config import Config
from svc.postgres.batching import ReadBatcher, WriteBatcher
from svc.postgres.queueing import Limits
from svc.users.handlers import UserChange, UserQueries, Users
from svc.users.rows import StoredUser
from svc.users.structs import UpdateUser
from tests.support.batches import Recorder, Sent
from tests.support.pools import opened

FILL = """insert into users (email, hashed_password, display_name)
select n || '@example.com', '', n::text from generate_series(1, %s) as n"""
"""The users 1 to so many, each named by its number."""

ANY_TEXT = (
    "alter table users drop constraint users_email_is_canonical, drop constraint users_display_name_is_a_line"
)
"""Lets any text in, as others could put there before there were rules: it stays there."""

EVERYTHING = "lock table users in access exclusive mode"
WRITES = "lock table users in share mode"

NAME = re.compile(rb'"display_name":"(\d+)"')
"""Such a name in an answer."""


class UserBatchers(Struct):
    """One worker's batchers of users, and what they sent."""

    sent: Sent
    queries: UserQueries
    by_id: ReadBatcher[int, StoredUser]
    changes: WriteBatcher[UserChange, StoredUser]

    async def get(self, number: int) -> StoredUser | None:
        """Return a user."""
        return await self.by_id.get(number)

    async def change(self, number: int, version: int | None = None) -> StoredUser | None:
        """Give a user the name that it has already, if it is of this version."""
        versions = None if version is None else [version]
        return await self.changes.get(UserChange(number, versions, UpdateUser(display_name=str(number))))


@asynccontextmanager
async def user_batchers(config: Config, **settings: Any) -> AsyncGenerator[UserBatchers]:
    """Give the batchers of users as the app makes them."""
    async with opened(config, **settings) as database:
        recorder, limits = Recorder(database), Limits.of(database.config)
        queries = UserQueries.bind(recorder)
        users = Users(queries, Passwords(config), limits)
        yield UserBatchers(recorder.sent, queries, users.by_id, users._changes)


def names(users: Sequence[StoredUser | None]) -> list[str | None]:
    """Return the names of users, None for none."""
    return [user and user.display_name for user in users]
