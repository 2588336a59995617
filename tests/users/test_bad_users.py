"""Bad input about users: each field and parameter that does not fit is named, and nothing is changed."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc.http.paging import seal
from svc.users.lists import describe_list
from svc.users.structs import ListUsers
from tests.support import pointers, problem
from tests.support.bad_input import (
    FUZZ,
    JSON,
    Call,
    check_answer,
    expand,
    make_bodies,
    make_queries,
    pack,
    send_bad,
)

User = dict[str, Any]
Refused = Callable[..., list[User]]

STARTS = {
    "POST": b'{"email": "dee@example.com", "password": "correct horse", ',
    "PATCH": b'{"is_active": false, ',
}
"""A body's good beginning: what is wrong comes after it."""
TARGETS = {"POST": "/users", "PATCH": "/users/2"}

NOT_FIT = r"""
display_name "\u0000" "x\u0000y" "x\n" "\n" "x\udbff\udfff" "" "WIDE" 7 [] LONG
email "\u0000@example.com" "dee@exa\u0000mple.com" "WIDE@example.com" "\ud83d\ude00" "" null [] LONG
password "correct\u0000horse" "WIDE" "short" null [] LONG
referred_by 9223372036854775808 -1 0 1.0 1e999 true "1" LONG
profile {"x":"\u0000"} {"\u0000":1} {"x":[{"y":{"z\u0000":[]}}]} [] "x" {"x":1e999} {"x":LONG} {"x":DEEP}
unknown 1 null {} "\u0000" LONG
id 1
hashed_password "$argon2id$v=19$m=8,t=1,p=1$YWJjZGVmZ2g$YWJjZGVmZ2g"
"""
NOT_A_QUERY = """
sort EMPTY x ID - id%00 id,email %20-%20at%20%60$.x null profile %FF
fields EMPTY x id, , id,%00 password hashed_password version null * %FF
email EMPTY %00 x ada@example.com%00 ada@example.com%0A WIDE@example.com null
is_active EMPTY yes 2 true%00 true,false null NULL Null
created_from EMPTY now 2026-01-31T12:00:00 2026-02-29T00:00:00Z 0001-01-01T00:00:00%2B14:00
created_to EMPTY now 9999-12-31T23:59:59-14:00 2026-01-31T12:00:00
unknown EMPTY 1 %00
"""
FORGED: list[tuple[str, object]] = [
    ("id", {"id": 2**63}),
    ("id", {"id": "1"}),
    ("email", {"email": "\x00"}),
    ("created_at", {"id": 1, "created_at": "0001-01-01T00:00:00+14:00"}),
    ("created_at", {"id": 1, "created_at": "9999-12-31T23:59:59-14:00"}),
    ("email", msgspec.Raw(b"\x81\xa5email\xa1\xff")),
]


@pytest.fixture
def refused(client: httpx.Client, users: list[User]) -> Refused:
    """Makes calls and gives their problems, as `send_bad` does."""
    return partial(send_bad, client, "/users")


def test_every_field_that_does_not_fit_is_named(refused: Refused) -> None:
    fields = [(name, value) for name, *values in expand(NOT_FIT) for value in values]
    for method, path in TARGETS.items():
        for start, others in ((STARTS[method], set()), (b'{"is_active": 7, ', {"#/is_active"})):
            bodies = [start + f'"{name}": {value}}}'.encode() for name, value in fields]
            documents = refused(method, [(path, body) for body in bodies], 422)
            for (name, value), document in zip(fields, documents, strict=True):
                assert pointers(document) >= {f"#/{name}", *others}, value[:60]


def test_null_is_refused_where_nothing_can_be_cleared(refused: Refused) -> None:
    for name in ("email", "is_active", "profile"):
        body = json.dumps({name: None}).encode()
        (document,) = refused("PATCH", [("/users/2", body)], 422)
        assert pointers(document) == {f"#/{name}"}


def test_a_profile_may_have_32_levels(client: httpx.Client, users: list[User]) -> None:
    profile = json.loads('{"x":' * 32 + "1" + "}" * 32)
    client.patch("/users/2", json={"profile": profile}).raise_for_status()
    assert client.get("/users/2?fields=profile").json() == {"profile": profile}


def test_a_query_parameter_that_does_not_fit_is_named(refused: Refused) -> None:
    pairs = [(name, value) for name, *values in expand(NOT_A_QUERY) for value in values]
    calls: list[Call] = [(f"/users?{name}={value}", None) for name, value in pairs]
    documents = refused("GET", calls, 422)
    for (name, _), document in zip(pairs, documents, strict=True):
        assert pointers(document) == {f"?{name}"}


def test_a_forged_cursor_is_refused(refused: Refused) -> None:
    """No secret is in a cursor's check, so anyone can make one with any content."""
    calls: list[Call] = []
    for sort, position in FORGED:
        cursor = seal(describe_list(msgspec.convert({"sort": sort}, ListUsers)), pack(position))
        calls.append((f"/users?sort={sort}&cursor={cursor}", None))
    refused("GET", calls, 422)


@FUZZ
@given(
    body=make_bodies("email", "password", "display_name", "profile", "referred_by", "is_active"),
    method=st.sampled_from(["POST", "PATCH"]),
)
def test_no_body_is_answered_with_a_5xx(
    client: httpx.Client, users: list[User], body: bytes, method: str
) -> None:
    path = f"/users/{users[0]['id']}" if method == "PATCH" else "/users"
    check_answer(client, "/users", users, client.request(method, path, content=body, headers=JSON))


@FUZZ
@given(query=make_queries("limit", "cursor", "sort", "fields", "email", "is_active", "created_from"))
def test_no_query_is_answered_with_a_5xx(client: httpx.Client, users: list[User], query: str) -> None:
    check_answer(client, "/users", users, client.get(f"/users?{query}"))


def test_a_byte_order_mark_in_front_of_a_body_is_passed_over(client: httpx.Client, users: list[User]) -> None:
    mark, path = "\ufeff", f"/users/{users[1]['id']}"
    new = '{"email": "dee@example.com", "password": "correct horse"}'
    assert client.post("/users", content=(mark + new).encode(), headers=JSON).status_code == 201
    change = mark + '{"display_name": "Dee"}'
    assert client.patch(path, content=change.encode(), headers=JSON).json()["display_name"] == "Dee"
    problem(client.patch(path, content=(mark + change).encode(), headers=JSON), 400)
    problem(client.patch(path, content=mark.encode(), headers=JSON), 400)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        told = problem(client.patch(path, content=change[1:].encode(encoding), headers=JSON), 400)
        assert told["detail"] == "Expected JSON in UTF-8, and this is UTF-16 or UTF-32"
