"""Bad input: each gets its 4xx problem, never a 500, changes nothing, and the next request is answered."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from svc.http.paging import seal
from svc.http.parsing import read_query
from svc.http.problems import Problem
from svc.users.lists import describe_list
from svc.users.structs import ListUsers
from tests.support import Service, pointers, problem

User = dict[str, Any]
Call = tuple[str, bytes | Iterator[bytes] | None]  # a path and a body
Refused = Callable[..., list[User]]

JSON = {"Content-Type": "application/json"}
STARTS = {
    "POST": b'{"email": "dee@example.com", "password": "correct horse", ',
    "PATCH": b'{"is_active": false, ',
}
"""A body's good beginning: what is wrong comes after it."""
TARGETS = {"POST": "/users", "PATCH": "/users/2"}

NOT_JSON = [
    *(b'"display_name": ' + end for end in (b"}", b'"x"', b'"x",}', b'"x"} {}', b'"x"}\x00')),
    *(b'"display_name": "' + text + b'"}' for text in (b"\x01", b"\xff", b"\xed\xa0\x80", rb"\ud800")),
    rb'"\udfff": "x"}',
    rb'"profile": {"\udfff": 1}}',
    b'"profile": {"x": NaN}}',
    b'"profile": {"x": -Infinity}}',
    b'"profile": {"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    b'"profile": ' + b'{"x":' * 25_000 + b"1" + b"}" * 25_001,
]
NOT_FIT = r"""
display_name "\u0000" "x\u0000y" "" "WIDE" 7 [] LONG
email "\u0000@example.com" "dee@exa\u0000mple.com" "WIDE@example.com" "\ud83d\ude00" "" null [] LONG
password "correct\u0000horse" "WIDE" "short" null [] LONG
referred_by 9223372036854775808 -1 0 1.0 1e999 true "1" LONG
profile {"x":"\u0000"} {"\u0000":1} {"x":[{"y":{"z\u0000":[]}}]} [] "x" {"x":1e999} {"x":LONG} {"x":DEEP}
unknown 1 null {} "\u0000" LONG
id 1
hashed_password "$argon2id$v=19$m=8,t=1,p=1$YWJjZGVmZ2g$YWJjZGVmZ2g"
"""
WHOLE: list[tuple[bytes, tuple[int, ...]]] = [
    (b"", (400,)),
    (b"nope", (400,)),
    (b"\xef\xbb\xbf{}", (400,)),
    ('{"display_name": "x"}'.encode("utf-16"), (400,)),
    (bytes(range(128, 256)), (400,)),
    (b"[]", (422,)),
    (b'[{"email": "dee@example.com", "password": "correct horse"}]', (422,)),
    (b'"dee@example.com"', (422,)),
    (b"null", (422,)),
    (b"9" * 5000, (422,)),
    # Of duplicate keys none slips through unchecked.
    (b'{"email": 7, "email": "dee@example.com", "password": "correct horse"}', (400, 422)),
    (b'{"email": "dee@example.com", "email": 7, "password": "correct horse"}', (400, 422)),
    # Which fault of these is seen first is not fixed.
    (b"[" * 100_000, (400, 422)),
    (b"[" * 100_000 + b"]" * 100_000, (400, 422)),
    (b'{"x":' * 40_000 + b"1" + b"}" * 40_000, (400, 422)),
    (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", (400, 422)),
]
NOT_A_QUERY = """
limit EMPTY 0 -1 1001 9223372036854775808 99999999999999999999 LONG x %D9%A3 1%00 +1 1.5 null
sort EMPTY x ID - id%00 id,email %20-%20at%20%60$.x null profile %FF
fields EMPTY x id, , id,%00 password hashed_password version null * %FF
email EMPTY %00 x ada@example.com%00 ada@example.com%0A WIDE@example.com null
cursor EMPTY %00 x null AAAAAAAAAAAAAAAAAAAAAAAA %F0%9F%98%80 WIDE
is_active EMPTY yes 2 true%00 true,false null NULL Null
created_from EMPTY null now infinity 1700000000 1700000000.5 LONG 2026-01-31 2026-01-31T12:00:00
created_from 2026-01-31T12:00:00+02:00 2026-13-01T00:00:00Z 2026-02-29T00:00:00Z 2026-01-31T24:00:00Z
created_from 2026-01-31T12:00:00%2B99:99 2026-01-31T12:00:00Z%00 0000-01-01T00:00:00Z 10000-01-01T00:00:00Z
created_from 0001-01-01T00:00:00%2B14:00
created_to 9999-12-31T23:59:59-14:00 2026-01-31T12:00:00
unknown EMPTY 1 %00
offset 1
"""
FORGED: list[tuple[str, object]] = [
    ("id", {"id": 2**63}),
    ("id", {"id": "1"}),
    ("email", {"email": "\x00"}),
    ("created_at", {"id": 1, "created_at": "0001-01-01T00:00:00+14:00"}),
    ("created_at", {"id": 1, "created_at": "9999-12-31T23:59:59-14:00"}),
    ("id", [1]),
    ("id", msgspec.Raw(b"\x81\xa1x" + b"\x91" * 5000 + b"\xc0")),  # nested arrays
    ("id", msgspec.Raw(b"\xc1")),
    ("id", msgspec.Raw(b"")),
    ("email", msgspec.Raw(b"\x81\xa5email\xa1\xff")),
]
ODD_IDS = """0 -1 01 1.0 1e0 +1 1,2 1;x x null %D9%A3 %00 1%00 1%0A 1%20 %FF %ED%A0%80 %F0%9F%98%80
9223372036854775807 9223372036854775808 18446744073709551617 LONG WIDE"""
ODD_PATHS = """/ // /nope /users/ /users/1/ //users /users//1 /Users /%00 /users%00 /users%0A
/users/1%0A /health/live%0A /users/1/2 /. /users/%2E%2E/users /WIDE"""
NO_METHODS = [
    ("/users", "GET HEAD POST", "PUT PATCH DELETE TRACE PROPFIND"),
    ("/users/2", "DELETE GET HEAD PATCH", "PUT POST TRACE PROPFIND"),
    ("/users/01", "DELETE GET HEAD PATCH", "PUT"),
    ("/health/live", "GET HEAD", "POST PUT DELETE"),
]
TWICE = ("limit=1&limit=2", "limit=1&limit=1", "sort=id&limit=1&sort=email", "=&=", "%00=1&%00=1")


def expand(table: str) -> list[list[str]]:
    """The words of each line, with those that are too long to write out."""
    words = {"LONG": "9" * 5000, "WIDE": "x" * 10_000, "DEEP": "[" * 32 + "]" * 32, "EMPTY": ""}
    for word, long in words.items():
        table = table.replace(word, long)
    return [line.split(" ") for line in table.strip().split("\n")]


@pytest.fixture
def refused(client: httpx.Client, users: list[User]) -> Refused:
    """Makes calls and gives their problems. Holds that none changed a user, and names all that went wrong."""

    def run(method: str, calls: Iterable[Call], *statuses: int) -> list[User]:
        documents, wrong = [], []
        for path, content in calls:
            response = client.request(method, path, content=content, headers=JSON)
            call = f"{method} {path[:60]} {content[:70] if isinstance(content, bytes) else content!r}"
            assert client.get("/users").raise_for_status().json()["users"] == users, call
            if response.status_code in statuses:
                documents.append(problem(response, response.status_code))
            else:
                wrong.append(f"{call}: {response.status_code}")
        assert not wrong, f"not {statuses}:\n" + "\n".join(wrong)
        return documents

    return run


def test_what_is_not_json_is_refused(refused: Refused) -> None:
    for method, path in TARGETS.items():
        for start in (STARTS[method], b'{"email": 7, '):
            refused(method, [(path, start + rest) for rest in NOT_JSON], 400)


def test_every_field_that_does_not_fit_is_named(refused: Refused) -> None:
    fields = [(name, value) for name, *values in expand(NOT_FIT) for value in values]
    for method, path in TARGETS.items():
        for start, others in ((STARTS[method], set()), (b'{"is_active": 7, ', {"#/is_active"})):
            bodies = [start + f'"{name}": {value}}}'.encode() for name, value in fields]
            documents = refused(method, [(path, body) for body in bodies], 422)
            for (name, value), document in zip(fields, documents, strict=True):
                assert pointers(document) >= {f"#/{name}", *others}, value[:60]


def test_a_body_that_is_no_plain_object_is_refused(refused: Refused) -> None:
    for method, path in TARGETS.items():
        for content, statuses in WHOLE:
            refused(method, [(path, content)], *statuses)


def test_null_is_refused_where_nothing_can_be_cleared(refused: Refused) -> None:
    for name in ("email", "is_active", "profile"):
        body = json.dumps({name: None}).encode()
        (document,) = refused("PATCH", [("/users/2", body)], 422)
        assert pointers(document) == {f"#/{name}"}


def test_a_profile_may_have_32_levels(client: httpx.Client, users: list[User]) -> None:
    profile = json.loads('{"x":' * 32 + "1" + "}" * 32)
    client.patch("/users/2", json={"profile": profile}).raise_for_status()
    assert client.get("/users/2?fields=profile").json() == {"profile": profile}


def test_a_body_over_the_limit_is_refused(service: Service, refused: Refused) -> None:
    limit = service.config.max_body
    for method, path in TARGETS.items():
        refused(method, [(path, b" " * limit)], 400)  # at the limit is not over it
        for size in (limit + 1, 10 * limit):
            chunks = (b" " * min(4096, size - at) for at in range(0, size, 4096))
            refused(method, [(path, b" " * size), (path, chunks)], 413)


def test_another_media_type_is_refused_with_what_is_taken(client: httpx.Client, users: list[User]) -> None:
    types = ["", "text/plain", "application/jsonx", "application/json/x", "*/*", "json", "text/json"]
    for method, path in TARGETS.items():
        taken = "Accept-Patch" if method == "PATCH" else "Accept-Post"
        for headers in ({}, *({"Content-Type": media_type} for media_type in types)):
            response = client.request(method, path, content=STARTS[method] + b'"x": 1}', headers=headers)
            problem(response, 415)
            assert "application/json" in response.headers[taken].split(", ")
    assert client.get("/users").json()["users"] == users


def test_a_query_parameter_that_does_not_fit_is_named(refused: Refused) -> None:
    pairs = [(name, value) for name, *values in expand(NOT_A_QUERY) for value in values]
    calls: list[Call] = [(f"/users?{name}={value}", None) for name, value in pairs]
    documents = refused("GET", calls, 422)
    for (name, _), document in zip(pairs, documents, strict=True):
        assert pointers(document) == {f"?{name}"}
    refused("GET", [(f"/users?{query}", None) for query in TWICE], 422)


def test_the_work_on_a_query_grows_with_its_length_alone() -> None:
    def work(count: int) -> float:
        query = "&".join(f"x{number}" for number in range(count)).encode()
        started = time.thread_time()
        with pytest.raises(Problem):
            read_query(Request({"type": "http", "query_string": query}), ListUsers)
        return time.thread_time() - started

    few, many = (min(work(count) for _ in range(3)) for count in (1000, 8000))
    assert many < 24 * few  # the square of it would be 64 times


def test_a_cursor_that_was_tampered_with_is_refused(client: httpx.Client, refused: Refused) -> None:
    cursor = client.get("/users?limit=1").json()["next_cursor"]
    others = str.maketrans({character: "C" if character == "B" else "B" for character in cursor})
    tampered = [cursor[:at] + cursor[at].translate(others) + cursor[at + 1 :] for at in range(len(cursor))]
    junk = ("%00", "!", "%20", "%0A", "=", ".")  # RFC 4648, 3.3: no other characters
    tampered += [cursor[:8] + character + cursor[8:] for character in junk]
    lists = ("sort=-id", "sort=email", "is_active=true", "email=ada@example.com")
    tampered += [f"{cursor}&{list_}" for list_ in lists]
    refused("GET", [(f"/users?cursor={end}", None) for end in tampered], 422)


def test_a_forged_cursor_is_refused(refused: Refused) -> None:
    """No secret is in a cursor's check, so anyone can make one with any content."""
    calls: list[Call] = []
    for sort, position in FORGED:
        content = bytes(position) if isinstance(position, msgspec.Raw) else msgspec.msgpack.encode(position)
        cursor = seal(describe_list(msgspec.convert({"sort": sort}, ListUsers)), content)
        calls.append((f"/users?sort={sort}&cursor={cursor}", None))
    refused("GET", calls, 422)


def test_what_is_no_path_or_no_id_is_not_found(refused: Refused) -> None:
    ids = [f"/users/{id_}" for line in expand(ODD_IDS) for id_ in line]
    paths = [path for line in expand(ODD_PATHS) for path in line]
    for method in ("GET", "DELETE"):
        refused(method, [(path, None) for path in (*ids, *paths)], 404)
    refused("PATCH", [(path, b'{"display_name": "x"}') for path in ids], 404)


def test_a_method_that_is_not_there_is_told_all_that_are(client: httpx.Client, users: list[User]) -> None:
    for path, allowed, others in NO_METHODS:
        for method in others.split():
            response = client.request(method, path)
            problem(response, 405)
            assert sorted(response.headers["Allow"].split(", ")) == allowed.split(), path
    assert client.get("/users").json()["users"] == users


# One service serves all examples, so what an example may change is ada alone.
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FIELDS = st.sampled_from(["email", "password", "display_name", "profile", "referred_by", "is_active"])
PARAMETERS = st.sampled_from(["limit", "cursor", "sort", "fields", "email", "is_active", "created_from"])
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(2**63) | st.floats() | TEXTS | st.emails()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXTS, v, max_size=4))
DOCUMENTS = (st.dictionaries(FIELDS | TEXTS, VALUES, max_size=5) | VALUES).map(json.dumps).map(str.encode)
MANGLED = st.builds(lambda body, at, junk: body[:at] + junk, DOCUMENTS, st.integers(0, 60), st.binary())
WORDS = st.text().map(quote) | st.integers().map(str) | st.text("%&=;+.:-_TZ0123456789")
QUERIES = st.lists(st.tuples(PARAMETERS | WORDS, WORDS).map("=".join), max_size=4).map("&".join) | WORDS


def answered(client: httpx.Client, users: list[User], response: httpx.Response) -> None:
    """Holds that an answer is a good one or a problem, and that the others are as they were."""
    if response.status_code >= 400:
        assert response.status_code in (400, 409, 413, 422), response.text
        problem(response, response.status_code)
    assert [client.get(f"/users/{user['id']}").json() for user in users[1:]] == users[1:]


@FUZZ
@given(body=DOCUMENTS | MANGLED | st.binary(), method=st.sampled_from(["POST", "PATCH"]))
def test_no_body_is_answered_with_a_5xx(
    client: httpx.Client, users: list[User], body: bytes, method: str
) -> None:
    path = f"/users/{users[0]['id']}" if method == "PATCH" else "/users"
    answered(client, users, client.request(method, path, content=body, headers=JSON))


@FUZZ
@given(query=QUERIES)
def test_no_query_is_answered_with_a_5xx(client: httpx.Client, users: list[User], query: str) -> None:
    answered(client, users, client.get(f"/users?{query}"))
