"""A retried registration: the same key and body get the first answer again."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError
from typing import Any

import argon2
import httpx
import pytest

from svc.config import Config
from tests.support import Service, make_key, problem, with_settings

DAN = {"email": "Dan@example.com", "password": "correct horse", "display_name": "Dan"}


def register(client: httpx.Client, key: str, **changes: object) -> httpx.Response:
    return client.post("/users", json=DAN | changes, headers={"Idempotency-Key": key})


def test_a_retry_gets_the_first_answer_and_makes_no_second_user(
    client: httpx.Client, users: list[dict[str, Any]], sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    first = register(client, '"k-1"')
    client.patch(first.headers["location"], json={"display_name": "Daniel", "email": "daniel@example.com"})
    again = register(client, "k-1", display_name="Dan")
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert [again.headers[name] for name in ("location", "etag")] == [
        first.headers[name] for name in ("location", "etag")
    ]
    assert sql("select count(*) from users") == [(len(users) + 1,)]


@pytest.mark.parametrize("changes", [{"password": "another one"}, {"email": "eve@example.com"}])
def test_the_same_key_with_another_body_is_refused(client: httpx.Client, changes: dict[str, str]) -> None:
    register(client, "k-1").raise_for_status()
    assert problem(register(client, "k-1", **changes), 422)["type"].endswith("key-reused")
    assert client.get("/users").json()["users"][1:] == []


def test_keys_of_different_callers_have_nothing_to_do_with_each_other(service: Service) -> None:
    with service.client(make_key(service.config)) as one, service.client(make_key(service.config)) as other:
        register(one, "k-1").raise_for_status()
        problem(register(other, "k-1"), 409)
        assert register(other, "k-1", email="eve@example.com").status_code == 201


def test_a_failed_registration_leaves_its_key_free(client: httpx.Client, users: list[dict[str, Any]]) -> None:
    problem(register(client, "k-1", email=users[0]["email"]), 409)
    assert register(client, "k-1").status_code == 201


def test_of_requests_at_once_one_registers_and_none_fails_otherwise(
    client: httpx.Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: register(client, "k-1"), range(24)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert sql("select count(*) from users") == [(1,)]


def test_a_key_is_forgotten_after_a_day(
    client: httpx.Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    register(client, "k-1").raise_for_status()
    sql("update idempotency_keys set created_at = now() - interval '25 hours'")
    register(client, "k-2", email="eve@example.com").raise_for_status()
    assert sql("select count(*) from idempotency_keys") == [(1,)]


def test_neither_the_key_nor_the_body_is_stored(
    client: httpx.Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    key = uuid.uuid4().hex
    register(client, key).raise_for_status()
    stored = str(sql("select * from idempotency_keys"))
    assert key not in stored
    assert DAN["password"] not in stored


def test_a_key_that_is_too_long_is_refused(client: httpx.Client) -> None:
    problem(register(client, "k" * 256), 400)


@pytest.mark.parametrize("second_name", ["dee", "eve"])
def test_two_requests_at_once_with_one_key_make_one_user(
    config: Config, monkeypatch: pytest.MonkeyPatch, second_name: str
) -> None:
    """Each waits, while its password is hashed, until the other is past its look for a first answer."""
    both, hash_ = Barrier(2, timeout=2), argon2.PasswordHasher.hash

    def wait(hasher: argon2.PasswordHasher, password: str) -> str:
        with suppress(BrokenBarrierError):  # where only one is let in at a time
            both.wait()
        return hash_(hasher, password)

    config = with_settings(config, hash_threads=2)
    with (
        Service(config) as service,
        service.client(make_key(config)) as client,
        ThreadPoolExecutor(2) as pool,
    ):

        def register_as(name: str, key: str) -> httpx.Response:
            return register(client, key, email=f"{name}@example.com")

        assert [register_as(name, name).status_code for name in ("ada", "bob")] == [201, 201]
        monkeypatch.setattr(argon2.PasswordHasher, "hash", wait)
        jobs = [pool.submit(register_as, name, "one") for name in ("dee", second_name)]
        first, second = sorted((job.result() for job in jobs), key=lambda answer: answer.status_code)
        assert len(client.get("/users").json()["users"]) == 3
    assert first.status_code == 201
    if second_name == "eve" or second.json() != first.json():
        kind = problem(second, second.status_code)["type"].removeprefix("urn:bareline:problem:")
        assert (second.status_code, kind) in [(409, "in-progress"), (422, "key-reused")]
