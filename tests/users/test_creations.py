"""New users at one time: a few statements, and to each its own outcome."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from svc.accounts.passwords import Password, Passwords
from svc.config import Config
from svc.http.emails import Email
from svc.postgres.errors import ConstraintError
from svc.postgres.queueing import Limits
from svc.users.handlers import Registration, UserQueries, Users
from svc.users.rows import StoredUser
from svc.users.structs import CreateUser
from tests.support import problem
from tests.support.locks import holding
from tests.support.loops import on_a_loop, submit
from tests.support.pools import opened

Sql = Callable[..., list[tuple[Any, ...]]]


def register(users: Users, name: str, display_name: str) -> "asyncio.Future[StoredUser | None]":
    """Register as a plain request does."""
    new = CreateUser(Email.parse(f"{name}@example.com"), Password("correct horse"), display_name)
    return submit(users.submit_new, Registration(new, None))


@on_a_loop
async def test_each_new_user_has_an_outcome_of_its_own(config: Config, sql: Sql) -> None:
    """Emails that are taken, and those that several ask for at one time, included."""
    sql(
        "insert into users (email, hashed_password) values ('taken1@example.com', 'x'), ('taken2@example.com', 'x')"
    )
    names = [*(f"new{n % 40}" for n in range(120)), "taken1", "taken2", "taken1"]
    async with opened(config, hash_queue=1000) as database:
        users = Users(UserQueries.bind(database), Passwords(database.config), Limits.of(database.config))
        asked = [register(users, name, f"{n} of {name}") for n, name in enumerate(names)]
        found = await asyncio.gather(*asked, return_exceptions=True)
    made = [user for user in found if isinstance(user, StoredUser)]
    assert sorted(user.email for user in made) == sorted(f"new{n}@example.com" for n in range(40))
    assert all(user.display_name and user.display_name.endswith(f" of {user.email[:-12]}") for user in made)
    refused = [error for error in found if not isinstance(error, StoredUser)]
    assert {type(error) for error in refused} == {ConstraintError}
    assert len(refused) == len(names) - 40
    rows = sql("select id, email, display_name from users where email like 'new%%'")
    assert {*rows} == {(user.id, user.email, user.display_name) for user in made}


def test_nobody_waits_for_an_email_that_somebody_else_is_about_to_take(
    client: httpx.Client, config: Config
) -> None:
    def post(name: str) -> httpx.Response:
        return client.post("/users", json={"email": f"{name}@example.com", "password": "correct horse"})

    held_email = "insert into users (email, hashed_password) values ('held@example.com', 'x')"
    with ThreadPoolExecutor(30) as pool, holding(config, held_email) as other:
        held = [pool.submit(post, "held") for _ in range(6)]
        others = [pool.submit(post, f"other{n}") for n in range(20)]
        assert [job.result().status_code for job in others] == [201] * 20
        assert not any(job.done() for job in held)
        other.commit()
        for job in held:
            assert problem(job.result(), 409)["type"] == "urn:bareline:problem:email-taken"
