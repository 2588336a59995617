"""Pages and look-ups at one time: a few statements, and to each who asks what it asked for."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from svc.config import Config
from svc.http.emails import Email
from svc.http.paging import Target, write_cursor
from svc.http.problems import Problem
from svc.postgres.batching import LARGE_CONCURRENCY, MAX_PAGES
from svc.postgres.pool import Database
from svc.postgres.queries import Row
from svc.postgres.queueing import CONCURRENCY, Limits
from svc.postgres.statements import Query
from svc.users.lists import PageRequest, UserListQueries, UserLists, describe_list, find_position
from svc.users.structs import ListUsers, LookUpUsers, User
from tests.support.locks import count_blocked, holding
from tests.support.loops import on_a_loop, submit
from tests.support.pools import opened
from tests.support.waiting import until

Sql = Callable[..., list[tuple[Any, ...]]]
SORTS = ("id", "-id", "email", "-email", "created_at", "-created_at")
LOCK = "lock table users in access exclusive mode"
FILL = """
insert into users (email, hashed_password, display_name, profile, created_at)
select n % 7 || '-' || n || '@example.com', 'secret', nullif('name ' || n, 'name 5'), '{"n": 1}',
    timestamptz '2026-01-01 00:00Z' + n % 5 * interval '1 second'
from generate_series(1, 60) as n
"""


async def ask(lists: UserLists, query: ListUsers) -> list[User]:
    """Ask for a page as a plain request does."""
    return await submit(lists.submit, PageRequest(query, Target("/users", b""))) or []


def order(rows: Sequence[User], sort: str) -> list[User]:
    """The users in an order."""
    field = sort.removeprefix("-")
    return sorted(rows, key=lambda user: (getattr(user, field), user.id), reverse=sort.startswith("-"))


def make_page(rows: Sequence[User], sort: str, limit: int, at: int) -> tuple[ListUsers, list[User]]:
    """A page that begins behind the user at `at`, -1 for the first one: how it is asked for, and its users.

    With one user more, which tells that there is a next page.
    """
    ordered, query = order(rows, sort), ListUsers(sort=sort, limit=limit)
    if at >= 0:
        cursor = write_cursor(describe_list(query), find_position(query, ordered[at]))
        query = ListUsers(sort=sort, limit=limit, cursor=cursor)
    return query, ordered[at + 1 : at + 2 + limit]


@on_a_loop
async def test_each_who_asks_gets_the_page_that_it_would_get_alone(config: Config, sql: Sql) -> None:
    sql(FILL)
    dice = random.Random(1)
    async with opened(config) as database:
        lists = UserLists(UserListQueries.bind(database), Limits.of(database.config))
        rows = await ask(lists, ListUsers(limit=1000))
        assert len(rows) == 60
        pages = [
            make_page(rows, sort, dice.choice((1, 3, 20, 250, 251, 1000)), dice.randrange(-1, 60))
            for sort in dice.choices(SORTS, k=300)
        ]
        found = await asyncio.gather(*(ask(lists, query) for query, _ in pages))
        assert found == [users for _, users in pages]


@on_a_loop
async def test_pages_of_an_order_share_statements_and_large_ones_have_a_lane(
    config: Config, sql: Sql
) -> None:
    sql(FILL)
    async with opened(config, pool_size=8) as database:
        statements = count_statements(database)
        lists = UserLists(UserListQueries.bind(database), Limits.of(database.config))
        with holding(config, LOCK):
            small = [asyncio.create_task(ask(lists, ListUsers(limit=9))) for _ in range(2 + 3 * MAX_PAGES)]
            await until(lambda: count_blocked(sql) == CONCURRENCY)
            large = [asyncio.create_task(ask(lists, ListUsers(limit=300))) for _ in range(3)]
            await until(lambda: count_blocked(sql) == CONCURRENCY + LARGE_CONCURRENCY)
        assert [len(page) for page in await asyncio.gather(*small)] == [10] * len(small)
        assert [len(page) for page in await asyncio.gather(*large)] == [60] * 3
        assert 3 + 3 <= len(statements) <= 3 + 2 + 3 * MAX_PAGES // 2


def count_statements(database: Database) -> list[str]:
    """A list that gets the name of each query that reads one row."""
    seen: list[str] = []
    fetch_one = database.fetch_one

    async def note(query: Query, arguments: Sequence[object]) -> Row | None:
        seen.append(query.name)
        return await fetch_one(query, arguments)

    database.fetch_one = note  # type: ignore[method-assign]
    return seen


@on_a_loop
async def test_a_cursor_of_another_list_is_refused_before_others_could_wait_for_it(
    config: Config, sql: Sql
) -> None:
    sql(FILL)
    async with opened(config) as database:
        lists = UserLists(UserListQueries.bind(database), Limits.of(database.config))
        query, _ = make_page(await ask(lists, ListUsers()), "email", 5, 7)
        with pytest.raises(Problem, match="query does not fit"):
            await ask(lists, ListUsers(sort="id", cursor=query.cursor))


@on_a_loop
async def test_look_ups_at_one_time_get_what_each_would_get_alone(config: Config, sql: Sql) -> None:
    sql(FILL)
    dice = random.Random(2)
    async with opened(config) as database:
        lists = UserLists(UserListQueries.bind(database), Limits.of(database.config))
        known = {user.id: user for user in await ask(lists, ListUsers(limit=1000))}
        named = {user.email: user for user in known.values()}
        asked, expected = list[LookUpUsers](), list[list[User | None]]()
        for number in range(100):
            ids = [dice.randrange(1, 80) for _ in range(dice.choice((0, 1, 9, 300)))]
            users = [known.get(id_) for id_ in ids]
            emails = [Email.parse(user.email if user else "nobody@example.com") for user in users]
            asked.append(LookUpUsers(ids=ids) if number % 2 else LookUpUsers(emails=emails))
            expected.append(users if number % 2 else [named.get(email) for email in emails])
        assert await asyncio.gather(*(submit(lists.submit_look_up, each) for each in asked)) == expected
