"""POST /users/import: all good lines or, where the body is cut or the database fails, none."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svc.config import Config
from svc.users.importer import BLOCK_BYTES
from tests.support import Service, make_key, problem, with_settings
from tests.support.imports import (
    DIGEST,
    HASH,
    HASHER,
    NDJSON,
    PATH,
    SALT,
    Sql,
    emails,
    line,
    lines,
    post,
    refused,
)


def test_imported_users_are_users(client: httpx.Client, sql: Sql) -> None:
    body = [
        line("Ada@Example.com", display_name="Ada", profile={"a": [1, None]}),
        line("bob@example.com", password="correct horse", display_name=None),
    ]
    assert post(client, b"\n".join(body)) == {"created": 2, "skipped": 0, "refused": [], "refused_count": 0}
    rows = sql("select email, display_name, profile, hashed_password, is_active from users order by id")
    assert [row[:3] for row in rows] == [
        ("ada@example.com", "Ada", {"a": [1, None]}),
        ("bob@example.com", None, {}),
    ]
    assert rows[0][3] == HASH
    assert all(row[4] and HASHER.verify(row[3], "correct horse") for row in rows)
    page = client.get("/users?email=ada@example.com").json()["users"]
    assert client.get(f"/users/{page[0]['id']}").status_code == 200


def test_every_refused_line_is_named_and_the_others_come_in(client: httpx.Client, sql: Sql) -> None:
    """Empty lines count; a line may end in CRLF; the last one needs no end."""
    post(client, line("first@example.com"))
    known = sql("select id from users")[0][0]
    wide = {"a": [1e300] * 1000}  # 6 KB here, 300 KB as PostgreSQL writes it
    body = [
        line("a@example.com", referred_by=known),  # 1
        b"",
        b"\r",
        line("b@example.com", referred_by=known + 1000) + b"\r",  # 4
        line("c@example.com") + b"\r",
        b"{nonsense",  # 6
        line("no address", display_name="", hashed_password="secret"),  # 7
        line("d@example.com", password="correct horse", hashed_password=HASH),  # 8
        b'{"email": "e@example.com"}',  # 9
        line("f@example.com", is_admin=True, password="short"),  # 10
        b"[]",
        b"\xff\xfe",
        line("g@example.com", profile=wide),  # 13
        line("h@example.com", profile={"x": "y" * 300_000}),  # 14
        line("i@example.com", hashed_password="$argon2id$v=19$m=4194304,t=1,p=1$" + f"{SALT}${DIGEST}"),
        b"[" * 100_000,
        line("j@example.com", profile={"n": 10**40}),  # kept, as PostgreSQL has such numbers
        b'{"email": "k@example.com"',
    ]
    found = post(client, b"\n".join(body))
    assert refused(found) == {
        4: {"#/referred_by"},
        6: {"#"},
        7: {"#/email", "#/display_name", "#/hashed_password"},
        8: {"#"},
        9: {"#"},
        10: {"#/is_admin", "#/password"},
        11: {"#"},
        12: {"#"},
        13: {"#/profile"},
        14: {"#"},
        15: {"#/hashed_password"},
        16: {"#"},
        18: {"#"},
    }
    assert (found["created"], found["skipped"]) == (3, 0)
    assert emails(sql) == [f"{name}@example.com" for name in ("first", "a", "c", "j")]
    assert HASH not in json.dumps(found)


def test_a_hundred_refused_lines_are_told_and_all_are_counted(client: httpx.Client, sql: Sql) -> None:
    body = [line(f"{n}@example.com") if n % 3 == 0 else b"{}" for n in range(300)]
    found = post(client, b"\n".join(body))
    assert (found["created"], found["refused_count"]) == (100, 200)
    assert [entry["line"] for entry in found["refused"]] == [n + 1 for n in range(300) if n % 3][:100]


def test_emails_that_are_taken_are_skipped(
    client: httpx.Client, sql: Sql, users: list[dict[str, Any]]
) -> None:
    body = [
        line("ADA@example.com", display_name="Another"),
        line("new@example.com", display_name="One"),
        line("New@example.com", display_name="Two"),
    ]
    answer = {"created": 1, "skipped": 2, "refused": [], "refused_count": 0}
    assert post(client, b"\n".join(body)) == answer
    assert sql("select display_name from users order by id") == [("Ada",), ("Bob",), ("Cyd",), ("One",)]
    assert post(client, b"\n".join(body)) == answer | {"created": 0, "skipped": 3}


def test_an_empty_import_creates_nobody(client: httpx.Client) -> None:
    for body in (b"", b"\n", b"\r\n \n"):
        assert post(client, body) == {"created": 0, "skipped": 0, "refused": [], "refused_count": 0}


def split(body: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """A body in chunks."""
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    return (body[start:end] for start, end in itertools.pairwise(edges))


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([b"", b"\r", b"{}", b"x", b'{"a":', line("a@example.com")]), max_size=8),
    st.lists(st.integers(0, 10_000)),
)
def test_chunks_make_no_difference(
    client: httpx.Client, sql: Sql, parts: list[bytes], cuts: list[int]
) -> None:
    sql("truncate users cascade")
    body = b"\n".join(parts)
    found = post(client, split(body, cuts))
    bad = [n for n, part in enumerate(parts, 1) if part.strip() and not part.startswith(b'{"email')]
    good = sum(part.startswith(b'{"email') for part in parts)
    assert sorted(refused(found)) == bad
    assert (found["created"], found["skipped"]) == (min(good, 1), max(good - 1, 0))


BOM = b"\xef\xbb\xbf"


def test_a_mark_in_front_of_all_is_passed_over_and_no_other(client: httpx.Client, sql: Sql) -> None:
    """U+FEFF, which editors put in front of a text: however it was cut, and whatever ends the lines."""
    first, second = line("a@example.com"), line("b@example.com")
    for body in (
        [BOM + first + b"\r\n" + second + b"\r\n"],
        [BOM[:1], BOM[1:2], BOM[2:] + first[:9], first[9:] + b"\n" + second],
    ):
        assert post(client, iter(body))["created"] == 2
        sql("delete from users")
    found = post(client, BOM + BOM + first + b"\n" + BOM + second)
    assert (found["created"], refused(found)) == (0, {1: {"#"}, 2: {"#"}})
    for empty in (BOM, BOM + b"\n", BOM + b" \r\n"):
        assert post(client, empty) == {"created": 0, "skipped": 0, "refused": [], "refused_count": 0}
    assert refused(post(client, b"\n" + BOM + first)) == {2: {"#"}}


def test_a_mark_does_not_count_as_a_part_of_the_line(config: Config) -> None:
    longest = line("a@example.com", display_name="n" * 50)
    config = with_settings(config, max_body=len(longest))
    with Service(config) as service, service.client(make_key(config)) as client:
        assert post(client, BOM + longest + b"\n" + longest + b" ")["refused"] == [
            {
                "line": 2,
                "errors": [{"pointer": "#", "detail": f"Expected a line of at most {len(longest)} bytes"}],
            }
        ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_told(client: httpx.Client, encoding: str) -> None:
    body = (line("a@example.com") + b"\n" + line("b@example.com")).decode().encode(encoding)
    found = post(client, body)
    assert found["created"] == 0
    details = [error["detail"] for entry in found["refused"] for error in entry["errors"]]
    assert set(details) == {"Expected JSON in UTF-8, and this is UTF-16 or UTF-32"}


def test_a_line_that_is_no_json_keeps_no_other_out(client: httpx.Client, sql: Sql) -> None:
    good = [line(f"{name}@example.com") for name in "abcdefgh"]
    bad = [
        b"\0",
        line("nul@example.com") + b"\0",
        b"\xff\xfe",
        line("x@example.com").replace(b"x@", b"\xe9@"),
        line("x@example.com").replace(b"x@", b"\\ud800@"),
        line("x@example.com", referred_by=2**63),
        line("x@example.com", profile={"a": 2**64}).replace(b"18446744073709551616", b"1e999"),
        b'{"email": "x@example.com"',
    ]
    found = post(client, b"\r\n \t\r\n".join(each for pair in zip(bad, good, strict=True) for each in pair))
    assert found["created"] == 8
    assert refused(found) == {4 * n + 1: {"#"} for n in range(8)} | {21: {"#/referred_by"}, 25: {"#/profile"}}
    assert emails(sql) == [f"{name}@example.com" for name in "abcdefgh"]


def test_of_a_name_that_comes_twice_the_last_value_counts(client: httpx.Client, sql: Sql) -> None:
    """As PostgreSQL's jsonb has it; RFC 8259 leaves it open."""
    assert post(client, line("a@example.com")[:-1] + b', "email": "b@example.com"}')["created"] == 1
    assert emails(sql) == ["b@example.com"]


def test_of_blocks_in_which_nobody_has_a_referrer_the_others_come_in(client: httpx.Client, sql: Sql) -> None:
    """The first blocks have none that could be created at all."""
    count = 3 * BLOCK_BYTES // len(line("user0@example.com"))
    body = [line(f"user{n}@example.com", referred_by=2**62) for n in range(count)]
    found = post(client, b"\n".join([*body, line("good@example.com")]))
    assert (found["created"], found["skipped"], found["refused_count"]) == (1, 0, count)
    assert found["refused"][-1] == {
        "line": 100,
        "errors": [{"pointer": "#/referred_by", "detail": "There is no such user"}],
    }
    assert post(client, line("one@example.com", referred_by=2**62))["refused_count"] == 1
    assert emails(sql) == ["good@example.com"]


def test_many_bad_lines_are_counted_and_not_kept(client: httpx.Client, sql: Sql) -> None:
    """Of 40,000, of which each would take 500 bytes to tell, what is kept is some kB."""
    process, before, most = psutil.Process(), 0, 0

    def body() -> Iterator[bytes]:
        nonlocal before, most
        yield b'{"email": "x", "password": "short"}\n' * 2000
        before = process.memory_info().rss
        for _ in range(19):
            yield b'{"email": "x", "password": "short"}\n' * 2000
            most = max(most, process.memory_info().rss)

    found = post(client, body())
    assert (found["created"], found["skipped"], found["refused_count"]) == (0, 0, 40_000)
    assert [entry["line"] for entry in found["refused"]] == [*range(1, 101)]
    assert most - before < 10_000_000


def test_an_import_needs_its_media_type_and_the_scope_to_write(
    service: Service, client: httpx.Client
) -> None:
    for media_type in ("application/json", "text/csv", ""):
        answer = client.post(PATH, content=lines(1), headers={"Content-Type": media_type})
        problem(answer, 415)
        assert answer.headers["accept-post"] == "application/x-ndjson"
    with service.client(make_key(service.config, "users:read")) as reader, service.client() as nobody:
        problem(reader.post(PATH, content=lines(1), headers=NDJSON), 403)
        problem(nobody.post(PATH, content=lines(1), headers=NDJSON), 401)
    assert client.get("/users").json()["users"] == []
