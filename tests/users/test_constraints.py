"""The constraints of users: what a request that would break one is answered."""

from typing import Any

import httpx
from msgspec.structs import astuple

from svc.users.constraints import CONSTRAINTS
from tests.support import problem

User = dict[str, Any]


def test_a_broken_constraint_is_answered_as_the_table_says(client: httpx.Client, users: list[User]) -> None:
    for constraint, method, change in (
        ("users_referred_by_another", "POST", {"referred_by": users[-1]["id"] + 1}),
        ("users_email_key", "POST", {"email": "ada@example.com"}),
        ("users_email_key", "PATCH", {"email": "Cyd@example.com"}),
        ("users_referred_by_fkey", "POST", {"referred_by": 2**63 - 1}),
        ("users_profile_is_small", "PATCH", {"profile": {"x": [1] * 100_000}}),
    ):
        refusal = CONSTRAINTS[constraint]
        assert refusal
        status, code, pointer, detail = astuple(refusal)
        new = {"email": "dee@example.com", "password": "correct horse", **change}
        path, body = ("/users", new) if method == "POST" else (f"/users/{users[1]['id']}", change)
        document = problem(client.request(method, path, json=body), status)
        assert document["type"] == f"urn:bareline:problem:{code}"
        assert document["errors"] == [{"pointer": pointer, "detail": detail}]
    assert client.get("/users").json()["users"] == users
