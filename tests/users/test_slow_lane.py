"""Pages that walk rows because no index finds what is filtered by: a lane of their own, with its own time."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from svc.config import Config
from svc.http.paging import Target
from svc.postgres.queueing import CONCURRENCY, SLOW_CONCURRENCY, Limits
from svc.users.lists import PageRequest, UserListQueries, UserLists, walks
from svc.users.structs import ListUsers, User
from tests.support import loops
from tests.support.locks import BACKENDS, count_blocked, holding
from tests.support.loops import on_a_loop
from tests.support.pools import opened, refuse
from tests.support.waiting import until

Sql = Callable[..., list[tuple[Any, ...]]]
LOCK = "lock table users in access exclusive mode"
BY_OTHERS = ["id", "-id", "email", "-email"]
BY_TIME = ["created_at", "-created_at"]


@pytest.mark.parametrize("sort", [*BY_OTHERS, *BY_TIME])
def test_a_page_walks_rows_where_a_filter_is_not_what_its_order_looks_at(sort: str) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert not walks(ListUsers(sort=sort))
    assert not walks(ListUsers(sort=sort, limit=7))
    assert walks(ListUsers(sort=sort, is_active=True))
    assert walks(ListUsers(sort=sort, is_active=False, created_to=moment))
    assert walks(ListUsers(sort=sort, created_from=moment)) == (sort in BY_OTHERS)
    assert walks(ListUsers(sort=sort, created_to=moment)) == (sort in BY_OTHERS)


def submit(lists: UserLists, query: ListUsers) -> "asyncio.Future[list[User] | None]":
    """Ask for a page as a plain request does."""
    return loops.submit(lists.submit, PageRequest(query, Target("/users", b"")))


@on_a_loop
async def test_pages_that_walk_rows_hold_up_no_others(config: Config, sql: Sql) -> None:
    async with opened(config, pool_size=8) as database:
        lists = UserLists(UserListQueries.bind(database), Limits.of(database.config))
        with holding(config, LOCK):
            walking = [submit(lists, ListUsers(is_active=True)) for _ in range(20)]
            await until(lambda: count_blocked(sql) == SLOW_CONCURRENCY)
            others = [submit(lists, ListUsers()) for _ in range(20)]
            await until(lambda: count_blocked(sql) == SLOW_CONCURRENCY + CONCURRENCY)
        assert await asyncio.gather(*walking, *others) == [[]] * 40


@on_a_loop
async def test_a_page_that_walks_rows_has_a_time_of_its_own(config: Config, sql: Sql) -> None:
    async with opened(config, slow_query_timeout=0.1) as database:
        lists = UserLists(UserListQueries.bind(database), Limits.of(database.config))
        with holding(config, LOCK):
            other = submit(lists, ListUsers())
            assert await refuse(submit(lists, ListUsers(is_active=True))) == "query-timeout"
            await until(lambda: count_blocked(sql) == 1)
            assert not other.done()
        assert await other == []
        await until(lambda: sql(f"select pid {BACKENDS} and state = 'active'") == [])
        assert await submit(lists, ListUsers(is_active=True)) == []
