"""Bad input: each gets its 4xx problem, never a 500, changes nothing, and the next request is answered."""

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
from svc.http.parsing import MAX_PARAMETERS
from tests.support import Service, pointers, problem
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
from tests.support.things import ListThings, describe_list

Row = dict[str, Any]
Refused = Callable[..., list[Row]]

STARTS = {"POST": b'{"name": "dee", "size": 2, ', "PATCH": b'{"is_open": false, '}
"""A body's good beginning: what is wrong comes after it."""
TARGETS = {"POST": "/things", "PATCH": "/things/2"}

NOT_JSON = [
    *(b'"note": ' + end for end in (b"}", b'"x"', b'"x",}', b'"x"} {}', b'"x"}\x00')),
    *(b'"note": "' + text + b'"}' for text in (b"\x01", b"\xff", b"\xed\xa0\x80", rb"\ud800")),
    rb'"\udfff": "x"}',
    rb'"details": {"\udfff": 1}}',
    b'"details": {"x": NaN}}',
    b'"details": {"x": -Infinity}}',
    b'"details": {"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    b'"details": ' + b'{"x":' * 25_000 + b"1" + b"}" * 25_001,
]
NOT_FIT = r"""
note "\u0000" "x\u0000y" "" "WIDE" 7 [] LONG
name "\u0000" "x\u0000y" "" "WIDE" 7 null [] LONG
size "1" 1.5 1e999 true null [] {}
parent 9223372036854775808 -1 0 1.5 1e999 true "1" LONG
details {"x":"\u0000"} {"\u0000":1} {"x":[{"y":{"z\u0000":[]}}]} [] "x" {"x":1e999} {"x":LONG} {"x":DEEP}
unknown 1 null {} "\u0000" LONG
id 1
"""
WHOLE: list[tuple[bytes, tuple[int, ...]]] = [
    (b"", (400,)),
    (b"nope", (400,)),
    (b"\xef\xbb\xbf\xef\xbb\xbf{}", (400,)),
    ('{"note": "x"}'.encode("utf-16"), (400,)),
    (bytes(range(128, 256)), (400,)),
    (b"[]", (422,)),
    (b'[{"name": "dee"}]', (422,)),
    (b'"dee"', (422,)),
    (b"null", (422,)),
    (b"9" * 5000, (422,)),
    # Of duplicate keys none slips through unchecked.
    (b'{"name": 7, "name": "dee"}', (400, 422)),
    (b'{"name": "dee", "name": 7}', (400, 422)),
    # Which fault of these is seen first is not fixed.
    (b"[" * 100_000, (400, 422)),
    (b"[" * 100_000 + b"]" * 100_000, (400, 422)),
    (b'{"x":' * 40_000 + b"1" + b"}" * 40_000, (400, 422)),
    (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", (400, 422)),
]
NOT_A_QUERY = """
limit EMPTY 0 -1 1001 9223372036854775808 99999999999999999999 LONG x %D9%A3 1%00 +1 1.5 null
sort EMPTY x ID - id%00 id,name %20-%20at%20%60$.x null details %FF
cursor EMPTY %00 x null AAAAAAAAAAAAAAAAAAAAAAAA %F0%9F%98%80 WIDE
is_open EMPTY yes 2 true%00 true,false null NULL Null
created_from EMPTY null now infinity 1700000000 1700000000.5 LONG 2026-01-31 2026-01-31T12:00:00
created_from 2026-01-31T12:00:00+02:00 2026-13-01T00:00:00Z 2026-02-29T00:00:00Z 2026-01-31T24:00:00Z
created_from 2026-01-31T12:00:00%2B99:99 2026-01-31T12:00:00Z%00 0000-01-01T00:00:00Z 10000-01-01T00:00:00Z
created_from 0001-01-01T00:00:00%2B14:00 9999-12-31T23:59:59-14:00
unknown EMPTY 1 %00
offset 1
"""
FORGED: list[tuple[str, object]] = [
    ("id", {"id": 2**63}),
    ("id", {"id": "1"}),
    ("name", {"name": "\x00"}),
    ("id", [1]),
    ("id", msgspec.Raw(b"\x81\xa1x" + b"\x91" * 5000 + b"\xc0")),  # nested arrays
    ("id", msgspec.Raw(b"\xc1")),
    ("id", msgspec.Raw(b"")),
    ("name", msgspec.Raw(b"\x81\xa4name\xa1\xff")),
]
ODD_IDS = """0 -1 01 1.0 1e0 +1 1,2 1;x x null %D9%A3 %00 1%00 1%0A 1%20 %FF %ED%A0%80 %F0%9F%98%80
9223372036854775807 9223372036854775808 18446744073709551617 LONG WIDE"""
ODD_PATHS = """/ // /nope /things/ /things/1/ //things /things//1 /Things /%00 /things%00 /things%0A
/things/1%0A /things/1/2 /. /things/%2E%2E/things /WIDE"""
NO_METHODS = [
    ("/things", "GET HEAD OPTIONS POST", "PUT PATCH DELETE TRACE"),
    ("/things/2", "DELETE GET HEAD OPTIONS PATCH", "PUT POST TRACE"),
    ("/things/01", "DELETE GET HEAD OPTIONS PATCH", "PUT"),
]
TWICE = ("limit=1&limit=2", "limit=1&limit=1", "sort=id&limit=1&sort=name", "=&=", "%00=1&%00=1")


@pytest.fixture
def refused(client: httpx.Client, things: list[Row]) -> Refused:
    """Makes calls and gives their problems, as `send_bad` does."""
    return partial(send_bad, client, "/things")


def test_what_is_not_json_is_refused(refused: Refused) -> None:
    for method, path in TARGETS.items():
        for start in (STARTS[method], b'{"email": 7, '):
            refused(method, [(path, start + rest) for rest in NOT_JSON], 400)


def test_every_field_that_does_not_fit_is_named(refused: Refused) -> None:
    fields = [(name, value) for name, *values in expand(NOT_FIT) for value in values]
    for method, path in TARGETS.items():
        for start, others in ((STARTS[method], set()), (b'{"is_open": 7, ', {"#/is_open"})):
            bodies = [start + f'"{name}": {value}}}'.encode() for name, value in fields]
            documents = refused(method, [(path, body) for body in bodies], 422)
            for (name, value), document in zip(fields, documents, strict=True):
                assert pointers(document) >= {f"#/{name}", *others}, value[:60]


def test_a_body_that_is_no_plain_object_is_refused(refused: Refused) -> None:
    for method, path in TARGETS.items():
        for content, statuses in WHOLE:
            refused(method, [(path, content)], *statuses)


def test_null_is_refused_where_nothing_can_be_cleared(refused: Refused) -> None:
    for name in ("name", "size", "is_open", "details"):
        body = json.dumps({name: None}).encode()
        (document,) = refused("PATCH", [("/things/2", body)], 422)
        assert pointers(document) == {f"#/{name}"}


def test_an_object_may_have_32_levels(client: httpx.Client, things: list[Row]) -> None:
    details = json.loads('{"x":' * 32 + "1" + "}" * 32)
    client.patch("/things/2", json={"details": details}).raise_for_status()
    assert client.get("/things/2").json()["details"] == details


def test_a_body_over_the_limit_is_refused(service: Service, refused: Refused) -> None:
    limit = service.config.max_body
    for method, path in TARGETS.items():
        refused(method, [(path, b" " * limit)], 400)  # at the limit is not over it
        for size in (limit + 1, 10 * limit):
            chunks = (b" " * min(4096, size - at) for at in range(0, size, 4096))
            refused(method, [(path, b" " * size), (path, chunks)], 413)


def test_another_media_type_is_refused_with_what_is_taken(client: httpx.Client, things: list[Row]) -> None:
    types = ["", "text/plain", "application/jsonx", "application/json/x", "*/*", "json", "text/json"]
    for method, path in TARGETS.items():
        taken = "Accept-Patch" if method == "PATCH" else "Accept-Post"
        for headers in ({}, *({"Content-Type": media_type} for media_type in types)):
            response = client.request(method, path, content=STARTS[method] + b'"x": 1}', headers=headers)
            problem(response, 415)
            assert "application/json" in response.headers[taken].split(", ")
    assert client.get("/things").json()["things"] == things


def test_a_query_parameter_that_does_not_fit_is_named(refused: Refused) -> None:
    pairs = [(name, value) for name, *values in expand(NOT_A_QUERY) for value in values]
    calls: list[Call] = [(f"/things?{name}={value}", None) for name, value in pairs]
    documents = refused("GET", calls, 422)
    for (name, _), document in zip(pairs, documents, strict=True):
        assert pointers(document) == {f"?{name}"}
    refused("GET", [(f"/things?{query}", None) for query in TWICE], 422)


def test_far_too_many_parameters_are_refused_unread(refused: Refused) -> None:
    for number, status in ((MAX_PARAMETERS, 422), (MAX_PARAMETERS + 1, 400), (5_000, 400)):
        query = "&".join(f"x{n}=%20" for n in range(number))
        (document,) = refused("GET", [(f"/things?{query}", None)], status)
        assert len(document.get("errors", ())) == (number if status == 422 else 0)


def test_a_cursor_that_was_tampered_with_is_refused(client: httpx.Client, refused: Refused) -> None:
    cursor = client.get("/things?limit=1").json()["next_cursor"]
    others = str.maketrans({character: "C" if character == "B" else "B" for character in cursor})
    tampered = [cursor[:at] + cursor[at].translate(others) + cursor[at + 1 :] for at in range(len(cursor))]
    junk = ("%00", "!", "%20", "%0A", "=", ".")  # RFC 4648, 3.3: no other characters
    tampered += [cursor[:8] + character + cursor[8:] for character in junk]
    lists = ("sort=name", "is_open=true", "created_from=2026-01-31T12:00:00Z")
    tampered += [f"{cursor}&{list_}" for list_ in lists]
    refused("GET", [(f"/things?cursor={end}", None) for end in tampered], 422)


def test_a_forged_cursor_is_refused(refused: Refused) -> None:
    """No secret is in a cursor's check, so anyone can make one with any content."""
    calls: list[Call] = []
    for sort, position in FORGED:
        cursor = seal(describe_list(msgspec.convert({"sort": sort}, ListThings)), pack(position))
        calls.append((f"/things?sort={sort}&cursor={cursor}", None))
    refused("GET", calls, 422)


def test_what_is_no_path_or_no_id_is_not_found(refused: Refused) -> None:
    ids = [f"/things/{id_}" for line in expand(ODD_IDS) for id_ in line]
    paths = [path for line in expand(ODD_PATHS) for path in line]
    for method in ("GET", "DELETE"):
        refused(method, [(path, None) for path in (*ids, *paths)], 404)
    refused("PATCH", [(path, b'{"note": "x"}') for path in ids], 404)


def test_a_method_that_is_not_there_is_told_all_that_are(client: httpx.Client, things: list[Row]) -> None:
    for path, allowed, others in NO_METHODS:
        for method in others.split():
            response = client.request(method, path)
            problem(response, 405)
            assert sorted(response.headers["Allow"].split(", ")) == allowed.split(), path
        options = client.options(path)
        assert (options.status_code, sorted(options.headers["Allow"].split(", "))) == (204, allowed.split())
        problem(client.request("PROPFIND", path), 501)
    assert client.get("/things").json()["things"] == things


@FUZZ
@given(
    body=make_bodies("name", "note", "size", "details", "parent", "is_open"),
    method=st.sampled_from(["POST", "PATCH"]),
)
def test_no_body_is_answered_with_a_5xx(
    client: httpx.Client, things: list[Row], body: bytes, method: str
) -> None:
    path = f"/things/{things[0]['id']}" if method == "PATCH" else "/things"
    check_answer(client, "/things", things, client.request(method, path, content=body, headers=JSON))


@FUZZ
@given(query=make_queries("limit", "cursor", "sort", "is_open", "created_from"))
def test_no_query_is_answered_with_a_5xx(client: httpx.Client, things: list[Row], query: str) -> None:
    check_answer(client, "/things", things, client.get(f"/things?{query}"))
