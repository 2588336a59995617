"""POST /users/import: all good lines or, where the body is cut or the database fails, none."""

import base64
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import argon2
import httpx
import psutil
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svc.config import Config, DatabaseUrl
from svc.structs import Email, PasswordHash
from tests.conftest import Service, make_key, problem, with_settings

Sql = Callable[..., list[tuple[Any, ...]]]

PATH = "/users/import"
NDJSON = {"Content-Type": "application/x-ndjson"}
HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HASH = HASHER.hash("correct horse")
SALT, DIGEST = HASH.split("$")[-2:]


def line(email: str, **fields: Any) -> bytes:
    """A line without its end; with a ready hash unless another password is given."""
    ready = {} if "password" in fields or "hashed_password" in fields else {"hashed_password": HASH}
    return json.dumps({"email": email, **ready, **fields}).encode()


def lines(count: int, name: str = "user") -> bytes:
    """A body of so many good lines."""
    return b"".join(line(f"{name}{n}@example.com") + b"\n" for n in range(count))


def post(client: httpx.Client, body: Any) -> dict[str, Any]:
    """What an import answers."""
    answer = client.post(PATH, content=body, headers=NDJSON)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(found: dict[str, Any]) -> dict[int, set[str]]:
    """The pointers of each refused line."""
    assert len(found["refused"]) == found["refused_count"]
    return {entry["line"]: {error["pointer"] for error in entry["errors"]} for entry in found["refused"]}


def emails(sql: Sql) -> list[str]:
    """Of all users, in the order of their making."""
    return [email for (email,) in sql("select email from users order by id")]


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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


NAMES = st.none() | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.emails(), NAMES, max_size=8))
def test_an_export_imported_elsewhere_gives_the_same_users(
    client: httpx.Client, sql: Sql, given: dict[str, str | None]
) -> None:
    sql("truncate users cascade")
    first = post(client, b"\n".join(line(email, display_name=name) for email, name in given.items()))
    names = {}
    for email, name in given.items():
        try:
            names.setdefault(str(Email.parse(email)), name)
        except ValueError:
            assert "#/email" in refused(first).popitem()[1]
    exported = [json.loads(text) for text in client.get("/users/export").text.split("\n")[:-1]]
    assert {user["email"]: user["display_name"] for user in exported} == names
    sql("truncate users cascade")
    again = post(
        client, b"\n".join(line(user["email"], display_name=user["display_name"]) for user in exported)
    )
    assert (again["created"], again["skipped"], again["refused_count"]) == (len(names), 0, 0)
    imported = [json.loads(text) for text in client.get("/users/export").text.split("\n")[:-1]]
    for user in exported + imported:
        del user["id"], user["created_at"]
    assert imported == exported


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


def begin(service: Service, framing: str, body: bytes) -> socket.socket:
    """A client that has sent a head and a part of the body."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {make_key(service.config)}\r\n"
    client = socket.create_connection(service.address)
    client.sendall(f"{head}Content-Type: application/x-ndjson\r\n{framing}\r\n\r\n".encode() + body)
    return client


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_cut_leaves_nothing(
    service: Service, client: httpx.Client, sql: Sql, chunked: bool
) -> None:
    """And its place is free for the next import: there is but one."""
    body = lines(5000)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) + 1}"
    cut = begin(service, framing, b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
    time.sleep(0.5)
    problem(client.post(PATH, content=lines(1), headers=NDJSON), 503)
    cut.close()
    deadline = time.monotonic() + 5
    while (answer := client.post(PATH, content=lines(1, "next"), headers=NDJSON)).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.json()["created"] == 1
    assert emails(sql) == ["next0@example.com"]


def test_an_import_that_is_under_way_holds_nobody_up(
    service: Service, client: httpx.Client, sql: Sql
) -> None:
    """Nor a connection: somebody takes an email that a line above has, at once."""
    body = lines(2000)
    with begin(service, f"Content-Length: {len(body) + 1}", body) as slow:
        time.sleep(0.5)
        assert sql(
            "select count(*) from pg_stat_activity where application_name = 'bareline' and xact_start is not null"
        ) == [(0,)]
        answer = client.post("/users", json={"email": "user7@example.com", "password": "correct horse"})
        assert answer.status_code == 201
        assert answer.elapsed.total_seconds() < 1
        slow.sendall(b"\n")
        head = slow.recv(10_000)
    assert b'{"created":1999,"skipped":1,' in head


def wait_for_lock(sql: Sql) -> int:
    """The process that waits for another one's row."""
    for _ in range(100):
        if rows := sql(
            "select pid from pg_stat_activity where wait_event = 'transactionid' and datname = current_database()"
        ):
            return int(rows[0][0])
        time.sleep(0.05)
    raise AssertionError("nobody waits")


def test_a_database_that_fails_in_the_middle_leaves_nothing(
    client: httpx.Client, sql: Sql, database_url: DatabaseUrl
) -> None:
    """The third block waits for an email that somebody else is about to take; then its connection is ended."""
    answers: list[httpx.Response] = []
    with psycopg.connect(database_url) as other:
        other.execute("insert into users (email, hashed_password) values ('user4000@example.com', 'x')")
        importing = threading.Thread(
            target=lambda: answers.append(client.post(PATH, content=lines(5000), headers=NDJSON))
        )
        importing.start()
        sql("select pg_terminate_backend(%s)", wait_for_lock(sql))
        importing.join()
        other.rollback()
    problem(answers[0], 503)
    assert emails(sql) == []
    assert post(client, lines(5000))["created"] == 5000


def test_two_imports_that_meet_end_as_one_after_the_other(config: Config, sql: Sql) -> None:
    """The same emails in opposite orders: one may be told to try again, and none is created twice."""
    config = with_settings(config, pool_size=8)
    body = lines(3000).splitlines(keepends=True)
    with Service(config) as service, service.client(make_key(config)) as client:
        answers: list[httpx.Response] = []

        def run(content: bytes) -> None:
            answers.append(client.post(PATH, content=content, headers=NDJSON))

        threads = [threading.Thread(target=run, args=(b"".join(part),)) for part in (body, body[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert sum(answer.json().get("created", 0) for answer in answers) == 3000
    assert len(emails(sql)) == 3000


def test_passwords_take_their_time(config: Config, sql: Sql) -> None:
    """Longer than a request may take to come in, since it is us who do not read; others register meanwhile.

    Two passwords may be in the queue, and three clients register: the import finds it full, and goes on.
    """
    config = with_settings(config, hash_memory=19_456, hash_passes=2, hash_queue=1, request_timeout=0.4)
    body = b"\n".join(
        line(f"{n}@example.com", password="correct horse", profile={"x": "y" * 16_000}) for n in range(30)
    )
    statuses: list[int] = []
    ended = threading.Event()
    with Service(config) as service, service.client(make_key(config)) as client:

        def register(name: str) -> None:
            while not ended.is_set():
                new = {"email": f"{name}{len(statuses)}@example.com", "password": "correct horse"}
                statuses.append(client.post("/users", json=new).status_code)
                time.sleep(0.03)

        threads = [threading.Thread(target=register, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        try:
            found = post(client, body)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert time.monotonic() - started > config.request_timeout
    assert found["created"] == 30
    assert {201, 503} <= set(statuses)


def test_reads_are_quick_while_an_import_runs(
    service: Service, client: httpx.Client, users: list[dict[str, Any]]
) -> None:
    found: list[dict[str, Any]] = []
    importing = threading.Thread(target=lambda: found.append(post(client, lines(30_000))))
    times: list[float] = []
    with service.client(client.headers["authorization"].removeprefix("Bearer ")) as other:
        other.get("/users/1").raise_for_status()
        importing.start()
        while importing.is_alive():
            started = time.perf_counter()
            other.get("/users/1").raise_for_status()
            times.append(time.perf_counter() - started)
    assert found[0]["created"] == 30_000
    assert sorted(times)[len(times) // 2] < 0.05
    assert max(times) < 0.5


def test_memory_stays_flat(client: httpx.Client) -> None:
    """30 MB in lines that are refused or good; service and client are this process."""
    process = psutil.Process()
    post(client, lines(20_000, "warm"))
    before, most = process.memory_info().rss, 0

    def body() -> Iterator[bytes]:
        nonlocal most
        for n in range(100):
            yield lines(500, f"batch{n}x") + b'{"x": "' + b"x" * 200_000 + b"\n"
            most = max(most, process.memory_info().rss)

    found = post(client, body())
    assert (found["created"], found["refused_count"]) == (50_000, 100)
    assert max(most, process.memory_info().rss) - before < 10_000_000


def make_hash(m: int, t: int, p: int, salt: str = SALT, digest: str = DIGEST) -> str:
    """A PHC string."""
    return f"$argon2id$v=19$m={m},t={t},p={p}${salt}${digest}"


@settings(deadline=None)
@given(
    st.sampled_from(argon2.Type), st.sampled_from([16, 19]), st.integers(1, 3), st.integers(1, 16),
    st.integers(8, 64), st.binary(min_size=8, max_size=48), st.integers(12, 64),
)  # fmt: skip
def test_every_hash_of_argon2_within_bounds_is_taken_as_it_is(
    type_: argon2.Type, version: int, passes: int, lanes: int, memory: int, salt: bytes, length: int
) -> None:
    hashed = argon2.low_level.hash_secret(
        b"x", salt, passes, memory * lanes, lanes, length, type_, version
    ).decode()
    assert PasswordHash.parse(hashed) == hashed
    assert HASH not in repr(PasswordHash(hashed))


BASE64 = st.text("ABCDwxyz0189+/=-_", max_size=24)


@given(
    st.sampled_from(["", "i", "d", "id", "x"]),
    st.sampled_from([16, 18, 19]),
    st.integers(0, 9),
    st.integers(0, 2),
    st.integers(0, 2),
    BASE64,
    BASE64,
)
def test_every_hash_that_is_taken_can_be_checked(
    kind: str, version: int, memory: int, passes: int, lanes: int, salt: str, digest: str
) -> None:
    hashed = f"$argon2{kind}$v={version}$m={memory},t={passes},p={lanes}${salt}${digest}"
    try:
        PasswordHash.parse(hashed)
    except ValueError:
        return
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        HASHER.verify(hashed, "wrong")


@pytest.mark.parametrize(
    "hashed",
    [
        "secret",
        "",
        HASH + "\n",
        HASH[:-2],  # no base64 has this length; of one character less a 16th is some
        HASH + "=",
        HASH.replace("argon2id", "argon2x"),
        HASH.replace("v=19", "v=18"),
        HASH.replace("$v=19", ""),
        "$2b$12$" + "x" * 53,
        make_hash(0, 1, 1),
        make_hash(7, 1, 1),
        make_hash(15, 1, 2),
        make_hash(262_145, 1, 1),
        make_hash(262_144, 5, 1),
        make_hash(4_194_304, 1, 1),
        make_hash(8, 131_073, 1),
        make_hash(8, 10**9, 1),
        make_hash(1024, 1, 17),
        make_hash(8, 1, 1, salt="c2FsdA"),
        make_hash(8, 1, 1, salt="A" * 100),
        make_hash(8, 1, 1, digest="AAAA"),
        make_hash(8, 1, 1, digest="A" * 1000),
        make_hash(8, 1, 1, digest=base64.b64encode(b"x" * 32).decode()),
        make_hash(8, 1, 1, digest="_" * 43),
    ],
    ids=itertools.count(),  # the salts differ each time
)
def test_a_hash_that_is_none_or_costs_too_much_is_refused(hashed: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        PasswordHash.parse(hashed)
    PasswordHash.parse(make_hash(262_144, 4, 16))
