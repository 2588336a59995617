"""Users over real HTTP: what each route answers."""

from typing import Any

import httpx

from tests.conftest import problem


def test_a_user_that_was_registered_is_read_back(client: httpx.Client, users: list[dict[str, Any]]) -> None:
    ada, bob, _ = users
    assert client.get(f"/users/{bob['id']}").json() == bob
    assert client.get(f"/users/{ada['id']}").json() == ada
    assert ada["email"] == "ada@example.com"


def test_register_answers_409_for_a_taken_email(client: httpx.Client, users: list[dict[str, Any]]) -> None:
    document = problem(
        client.post("/users", json={"email": "ADA@Example.COM", "password": "another one"}), 409
    )
    assert document["errors"] == [{"pointer": "#/email", "detail": "A user with this email exists"}]
