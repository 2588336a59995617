"""Batched changes: each caller has the outcome that the change would have had alone."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svc.config import Config
from svc.http.parsing import decoder
from svc.postgres.errors import ConstraintError
from svc.users.handlers import UserChange, update_alone
from svc.users.rows import StoredUser
from svc.users.structs import UpdateUser
from tests.support import Service, pointers, problem
from tests.support.locks import BACKENDS, count_blocked, holding
from tests.support.loops import on_a_loop
from tests.support.pools import refuse
from tests.support.raw import count_waiting
from tests.support.users import FILL, WRITES, UserBatchers, names, user_batchers
from tests.support.waiting import until, wait_for

Sql = Callable[..., list[tuple[Any, ...]]]
User = dict[str, Any]
VERSIONS = "select version from users order by id"
LOCKED = "select from users where id <= {} for update"


def versions(rows: list[StoredUser | None]) -> list[int | None]:
    return [row and row.version for row in rows]


@on_a_loop
async def test_each_change_of_a_batch_has_its_own_outcome(config: Config, sql: Sql) -> None:
    sql(FILL, 10)
    async with user_batchers(config) as it:
        asked = [(1, None), (2, 1), (3, 7), (4, None), (99, None), (4, None), (4, 2), (5, 1), (5, 1)]
        rows = await asyncio.gather(*(it.change(*each) for each in asked))
        assert ("update_users", 6) in it.sent
    assert versions(rows[:3] + rows[4:5]) == [2, 2, None, None]
    assert {*versions(rows[3:4] + rows[5:7])} in ({2, 3, 4}, {2, 3, None})
    assert sorted(map(str, versions(rows[7:]))) == ["2", "None"]
    assert sql("select id, version from users where id not between 4 and 5 and version > 1 order by 1") == [
        (1, 2),
        (2, 2),
    ]


@on_a_loop
async def test_a_locked_row_holds_up_nobody_else(config: Config, sql: Sql) -> None:
    sql(FILL, 30)
    async with user_batchers(config, pool_size=6) as it:
        with holding(config, LOCKED.format(3)):
            locked = []
            for number in (1, 2, 3):
                locked.append(asyncio.ensure_future(it.change(number)))
                await until(lambda: count_blocked(sql) == len(locked))
            async with asyncio.timeout(20):
                for number in range(4, 8):
                    assert versions([await it.change(number)]) == [2]
                more = [asyncio.ensure_future(it.change(number)) for number in range(1, 31)]
                assert set(versions(await asyncio.gather(*more[7:]))) == {2}
                assert names([await it.get(1)]) == ["1"]
            assert not any(task.done() for task in locked + more[:3])
        await asyncio.gather(*locked, *more)
        assert sql(VERSIONS) == [(3,)] * 7 + [(2,)] * 23


@on_a_loop
async def test_many_locked_rows_leave_connections_for_everybody_else(config: Config, sql: Sql) -> None:
    sql(FILL, 60)
    async with user_batchers(config, pool_size=4, acquire_timeout=4) as it:
        with holding(config, LOCKED.format(40)):
            locked = [asyncio.ensure_future(it.change(number)) for number in range(1, 41)]
            await until(lambda: count_blocked(sql) == 2)
            assert versions(await asyncio.gather(*map(it.change, range(41, 61)))) == [2] * 20
            assert names(await asyncio.gather(*map(it.get, range(1, 41)))) == [*map(str, range(1, 41))]
            await until(lambda: sum(task.done() for task in locked) == 38)
            waiting = [task for task in locked if not task.done()]
            assert {await refuse(task) for task in locked if task.done()} == {"overload"}
        assert versions(await asyncio.gather(*waiting)) == [2] * 2
        assert sql("select count(*) from users where version = 2") == [(22,)]


@on_a_loop
async def test_a_locked_row_is_waited_for_no_longer_than_a_query_may_take(config: Config, sql: Sql) -> None:
    sql(FILL, 5)
    async with user_batchers(config, query_timeout=1) as it:
        with holding(config, LOCKED.format(1)):
            locked = asyncio.ensure_future(it.change(1))
            assert versions(await asyncio.gather(*map(it.change, range(2, 6)))) == [2] * 4
            assert await refuse(locked) == "outcome-unknown"
            await until(lambda: sql(f"select pid {BACKENDS} and state = 'active'") == [])
        assert versions(await asyncio.gather(*map(it.change, range(1, 6)))) == [2, 3, 3, 3, 3]


@pytest.mark.parametrize("sqlstate", ["40P01", "40001", "23514", "22003"])
@on_a_loop
async def test_a_change_that_the_database_refuses_fails_alone(
    config: Config, sql: Sql, sqlstate: str
) -> None:
    sql(FILL, 20)
    sql(f"""create function refuse() returns trigger language plpgsql as
        $$ begin raise exception using errcode = '{sqlstate}'; end $$""")
    sql(
        "create trigger refused before update on users for each row when (new.id = 7) execute function refuse()"
    )
    async with user_batchers(config) as it:
        ends = await asyncio.gather(*map(it.change, range(1, 21)), return_exceptions=True)
    assert [number for number, end in enumerate(ends, 1) if not isinstance(end, StoredUser)] == [7]
    assert sql(VERSIONS) == [(2,)] * 6 + [(1,)] + [(2,)] * 13


@on_a_loop
async def test_workers_that_change_the_same_rows_lose_no_change_and_meet_no_deadlock(
    config: Config, sql: Sql
) -> None:
    sql(FILL, 5000)
    sql("analyze users")
    found: dict[int, list[int]] = {number: [] for number in range(1, 21)}

    async def work(it: UserBatchers, numbers: list[int]) -> None:
        for _ in range(25):
            rows = await asyncio.gather(*map(it.change, numbers))
            for row in rows:
                assert row
                found[row.id].append(row.version)

    order = list(range(1, 21))
    async with user_batchers(config) as one, user_batchers(config) as other:
        with holding(config, "select from users where id = 10 for update"):  # so that they meet in the middle
            work_of_all = asyncio.gather(
                work(one, order), work(other, order[::-1]), work(other, order), work(one, order[::-1])
            )
            await until(lambda: count_blocked(sql) >= 2)
        await work_of_all
    assert {number: sorted(each) for number, each in found.items()} == {
        key: [*range(2, 102)] for key in order
    }
    assert sql("select distinct version from users where id <= 20") == [(101,)]
    assert sql("select deadlocks from pg_stat_database where datname = current_database()") == [(0,)]


@on_a_loop
async def test_of_changes_of_one_version_one_is_made(config: Config, sql: Sql) -> None:
    sql(FILL, 5)
    async with user_batchers(config) as one, user_batchers(config) as other:
        for version in range(1, 21):
            asked = [
                it.change(number, version) for it in (one, other) for number in range(1, 6) for _ in range(3)
            ]
            rows = await asyncio.gather(*asked)
            assert sorted(row.id for row in rows if row) == [1, 2, 3, 4, 5]


BODIES = st.fixed_dictionaries(
    {},
    optional={
        "display_name": st.none() | st.sampled_from(["a", "Ünï", '"\\\u2028']),
        "is_active": st.booleans(),
        "email": st.sampled_from(["taken@example.com", "N <{}@New.Example.com>"]),
    },
)
VERSIONS_ASKED = st.none() | st.lists(st.integers(1, 3), max_size=2)
ROUND = st.dictionaries(st.integers(1, 6), st.tuples(VERSIONS_ASKED, BODIES), min_size=3)
ROUNDS = st.lists(ROUND, min_size=1, max_size=3)
"""Rounds of merge patches, at most one a user in each, of some versions or any. There is no user 6."""


def read_change(number: int, wanted: list[int] | None, body: User) -> UserChange:
    """What the service reads."""
    content = msgspec.json.encode(body | ({"email": body["email"].format(number)} if "email" in body else {}))
    return UserChange(number, wanted, decoder(UpdateUser).decode(content))


async def find_outcome(it: UserBatchers, change: UserChange, batched: bool) -> object:
    """What a change comes to."""
    try:
        return await (
            it.changes.get(change) if batched and change.is_small else update_alone(it.queries, change)
        )
    except ConstraintError as error:
        return error.name


async def apply(it: UserBatchers, sql: Sql, rounds: list[dict[int, Any]], batched: bool) -> object:
    """All outcomes, and the rows in the end."""
    sql("truncate users restart identity cascade")
    sql(FILL, 5)
    sql("alter sequence users_id_seq restart 7")
    sql("insert into users (email, hashed_password) values ('taken@example.com', '')")
    outcomes: list[object] = []
    for each in rounds:
        changes = [read_change(number, *asked) for number, asked in each.items()]
        if batched:
            outcomes += await asyncio.gather(*(find_outcome(it, change, True) for change in changes))
        else:
            outcomes += [await find_outcome(it, change, False) for change in changes]
    return outcomes, sql("select id, email, display_name, is_active, version from users order by id")


def test_changes_in_batches_are_the_same_as_one_by_one(config: Config, sql: Sql) -> None:
    sql("alter table users alter created_at set default '2026-01-01'")

    async def compare(rounds: list[dict[int, Any]]) -> None:
        async with user_batchers(config, pool_size=6) as it:
            assert await apply(it, sql, rounds, True) == await apply(it, sql, rounds, False)
            sizes.extend(size for name, size in it.sent if name == "update_users")

    @settings(max_examples=20)
    @given(ROUNDS)
    def run(rounds: list[dict[int, Any]]) -> None:
        asyncio.run(compare(rounds))

    sizes: list[int] = []
    run()
    assert sizes


def test_every_client_of_a_batch_is_answered_for_its_own_change(
    service: Service, client: httpx.Client, users: list[User], config: Config, sql: Sql
) -> None:
    """They gather behind a lock: the transaction ids of the rows tell who left together."""
    sql(FILL, 12)
    ids = [row[0] for row in sql("select id from users order by id")]
    asked: list[tuple[int, User, dict[str, str], int]] = [
        *((id_, {"display_name": f"name {id_}"}, {}, 200) for id_ in ids[:6]),
        (ids[6], {"display_name": None, "is_active": False}, {"If-Match": '"1"'}, 200),
        (ids[7], {"is_active": False}, {"If-Match": '"2"'}, 412),
        (ids[-1] + 1, {"is_active": False}, {}, 404),
        (ids[8], {"email": "Ada <ADA@example.com>"}, {}, 409),
        (ids[9], {"email": "Eve@example.com"}, {}, 200),
        (ids[10], {"is_active": None}, {}, 422),
        (ids[11], {"display_name": "twice"}, {}, 200),
        (ids[11], {"display_name": "twice"}, {}, 200),
    ]
    with ThreadPoolExecutor(len(asked)) as threads:
        with holding(config, WRITES):
            jobs = [
                threads.submit(client.patch, f"/users/{id_}", json=body, headers=headers)
                for id_, body, headers, _ in asked
            ]
            wait_for(lambda: count_waiting(service) == len(asked) - 1)  # one was refused
        answers = [job.result() for job in jobs]
    assert [answer.status_code for answer in answers] == [status for *_, status in asked]
    for (id_, body, _, status), answer in zip(asked, answers, strict=True):
        if status == 200:
            changed = {**body, "email": body["email"].lower()} if "email" in body else body
            assert answer.json() == client.get(f"/users/{id_}").json()
            assert answer.json().items() >= {"id": id_, **changed}.items()
        else:
            problem(answer, status)
    assert pointers(answers[9].json()) == {"#/email"}
    changed = sql("select count(*), count(distinct xmin::text), max(version) from users where version > 1")
    assert changed[0][0] == 9
    assert changed[0][1] <= 5
    assert changed[0][2] == 3


@pytest.mark.parametrize("wanted", ["eve@example.com", "ada@example.com"])
def test_of_two_who_want_one_email_at_once_one_has_it(
    client: httpx.Client, users: list[User], config: Config, sql: Sql, wanted: str
) -> None:
    with ThreadPoolExecutor(8) as threads:
        with holding(config, WRITES):
            jobs = [
                threads.submit(
                    client.patch, f"/users/{user['id']}", json={"email": wanted, "display_name": "x"}
                )
                for user in users[1:]
            ]
            wait_for(lambda: count_blocked(sql) == 2)
        statuses = sorted(job.result().status_code for job in jobs)
    assert statuses == ([200, 409] if wanted.startswith("eve") else [409, 409])


def test_who_waits_for_an_email_holds_up_nobody_else(
    client: httpx.Client, users: list[User], config: Config, sql: Sql
) -> None:
    sql(FILL, 12)
    ids = [row[0] for row in sql("select id from users order by id")]
    eve = {"email": "eve@example.com"}
    with ThreadPoolExecutor(3) as threads:
        with holding(config, "insert into users (email, hashed_password) values ('eve@example.com', '')"):
            jobs = [threads.submit(client.patch, f"/users/{id_}", json=eve) for id_ in ids[:3]]
            wait_for(lambda: count_blocked(sql) == 3)
            for id_ in ids[3:]:
                client.patch(f"/users/{id_}", json={"display_name": "x"}).raise_for_status()
            assert not any(job.done() for job in jobs)
        assert sorted(job.result().status_code for job in jobs) == [200, 409, 409]
