"""A retried registration: the same key and body get the first answer again."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support import Service, make_key, problem

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
