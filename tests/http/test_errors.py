"""Errors: one table of the database's, one form of document, and none of the database's own words in it."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError
from typing import Any

import argon2
import asyncpg
import httpx
import pytest
from msgspec.structs import astuple

from svc.config import Config, DatabaseUrl
from svc.http.problems import STATUSES, Problem
from svc.postgres.connection import connect
from svc.postgres.errors import SQLSTATES
from svc.postgres.pool import REPROVE_INTERVAL
from tests.support import CONSTRAINTS, Service, make_key, pointers, problem, problem_of, with_settings

Sql = Callable[..., list[tuple[Any, ...]]]
User = dict[str, Any]

IDENTITIES = {"users_pkey", "api_keys_pkey"}
"""Keys of ids that the database alone makes."""

OF_STATE = {state: STATUSES[kind][0] for state, (kind, _) in SQLSTATES.items()}
"""SQLSTATE or its class → status."""


UNIQUE_AND_SUCH = """
select conname, conrelid::regclass::text from pg_constraint
where contype in ('p', 'u', 'f', 'c', 'x') and connamespace = 'public'::regnamespace
union
select relname, indrelid::regclass::text from pg_index join pg_class on oid = indexrelid
where indisunique and relnamespace = 'public'::regnamespace
"""


def test_every_constraint_that_a_request_can_break_has_its_answer(sql: Sql) -> None:
    ours = {name for name, table in sql(UNIQUE_AND_SUCH) if "yoyo" not in table}
    assert {"users_email_key", "users_referred_by_fkey", "users_profile_is_object"} <= ours
    assert ours == CONSTRAINTS.keys() | IDENTITIES
    assert not CONSTRAINTS.keys() & IDENTITIES


def test_a_broken_constraint_is_answered_as_the_table_says(client: httpx.Client, users: list[User]) -> None:
    for constraint, method, change in (
        ("users_referred_by_another", "POST", {"referred_by": users[-1]["id"] + 1}),
        ("users_email_key", "POST", {"email": "ada@example.com"}),
        ("users_email_key", "PATCH", {"email": "Cyd@example.com"}),
        ("users_referred_by_fkey", "POST", {"referred_by": 2**63 - 1}),
        ("users_profile_is_small", "PATCH", {"profile": {"x": [1] * 100_000}}),
    ):
        status, code, pointer, detail = astuple(CONSTRAINTS[constraint])
        new = {"email": "dee@example.com", "password": "correct horse", **change}
        path, body = ("/users", new) if method == "POST" else (f"/users/{users[1]['id']}", change)
        document = problem(client.request(method, path, json=body), status)
        assert document["type"] == f"urn:bareline:problem:{code}"
        assert document["errors"] == [{"pointer": pointer, "detail": detail}]
    assert client.get("/users").json()["users"] == users


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

        def register(name: str, **headers: str) -> httpx.Response:
            body = {"email": f"{name}@example.com", "password": "correct horse"}
            return client.post("/users", json=body, headers=headers)

        assert [register(name).status_code for name in ("ada", "bob")] == [201, 201]
        monkeypatch.setattr(argon2.PasswordHasher, "hash", wait)
        jobs = [pool.submit(register, name, **{"Idempotency-Key": '"one"'}) for name in ("dee", second_name)]
        first, second = sorted((job.result() for job in jobs), key=lambda answer: answer.status_code)
        assert len(client.get("/users").json()["users"]) == 3
    assert first.status_code == 201
    if second_name == "eve" or second.json() != first.json():
        kind = problem(second, second.status_code)["type"].removeprefix("urn:bareline:problem:")
        assert (second.status_code, kind) in [(409, "in-progress"), (422, "key-reused")]


OWN_WORDS = re.compile(
    r"secret|select|insert|column|relation|constraint|does not exist|syntax|sqlstate|display_name|hashed"
    r"|users_|_pkey|_key\b|asyncpg|psycopg|postgres|traceback|\.py|\.sql|\b[0-9A-Z]{2}[0-9]{3}\b",
    re.IGNORECASE,
)
"""What a client must not read in an error: words of the database, of the driver, and of the code."""


def calls(client: httpx.Client, user: User, new: str = "dee") -> Iterator[httpx.Response]:
    """One of each operation that reads or writes users."""
    yield client.get(f"/users/{user['id']}")
    yield client.get("/users?sort=email")
    yield client.get("/users?email=ada@example.com")
    yield client.post("/users", json={"email": f"{new}@example.com", "password": "correct horse"})
    yield client.patch(f"/users/{user['id']}", json={"display_name": "Bea"})


SPOILT = [
    ("alter table users drop column display_name", "alter table users add column display_name text"),
    ("alter table users rename to people", "alter table people rename to users"),
    ("alter table users rename email to mail", "alter table users rename mail to email"),
]


def test_a_spoilt_schema_is_a_503_until_it_is_mended(
    client: httpx.Client, users: list[User], sql: Sql
) -> None:
    for number, (spoil, mend) in enumerate(SPOILT):
        sql(spoil)
        for response in calls(client, users[1]):
            assert problem(response, 503)["type"] == "urn:bareline:problem:schema-mismatch"
            assert not OWN_WORDS.search(response.text), response.text
            assert response.headers["Retry-After"]
        assert client.get("/health/live").status_code == 200
        problem(client.get("/health/ready"), 503)
        sql(mend)
        assert client.get("/health/ready").status_code == 200
        answers = calls(client, users[1], new=f"dee{number}")
        assert [response.status_code for response in answers] == [200, 200, 200, 201, 200], mend


def test_a_schema_that_is_mended_after_the_start_is_used_without_a_probe(config: Config, sql: Sql) -> None:
    token, (spoil, mend) = make_key(config), SPOILT[0]
    sql(spoil)
    with Service(config) as service, service.client(token) as client:
        problem(client.get("/users"), 503)
        sql(mend)
        time.sleep(REPROVE_INTERVAL * 1.5)
        for name in ("ada", "bob"):
            body = {"email": f"{name}@example.com", "password": "correct horse"}
            assert client.post("/users", json=body).status_code == 201
        assert len(client.get("/users").json()["users"]) == 2


RAISE = """create or replace function raise_it() returns trigger language plpgsql as $$ begin
    raise exception using errcode = '{}', message = 'secret ' || new.email, detail = row_to_json(new)::text,
        hint = 'secret', table = 'secret', column = 'secret', constraint = 'secret', schema = 'secret';
end $$"""
RAISED = {"P0001": 500, "23514": 500, "23502": 500, "23505": 500, "XX000": 500, "22012": 500, "22003": 422}
RAISED |= {"22021": 422, "54001": 422, "40001": 503, "40P01": 503, "57014": 503, "53300": 503, "42501": 503}
RAISED |= {"55P03": 503, "0A000": 503, "08006": 503, "25006": 503}


def test_nothing_that_the_database_says_is_in_an_answer(
    client: httpx.Client, users: list[User], sql: Sql
) -> None:
    sql("create or replace function raise_it() returns trigger language plpgsql as 'begin return new; end'")
    sql("create trigger spoilt before insert or update on users for each row execute function raise_it()")
    for sqlstate, status in RAISED.items():
        sql(RAISE.format(sqlstate))
        for method, path in (("POST", "/users"), ("PATCH", f"/users/{users[1]['id']}")):
            body = {"email": "dee@example.com"} | ({"password": "correct horse"} if method == "POST" else {})
            response = client.request(method, path, json=body)
            assert problem(response, status), sqlstate
            assert not OWN_WORDS.search(response.text), response.text
            assert not [word for word in ("dee@", "correct horse", "$argon2") if word in response.text]
            assert (status == 503) == ("Retry-After" in response.headers)
    sql("drop trigger spoilt on users")
    assert client.get("/users").json()["users"] == users
    assert [response.status_code for response in calls(client, users[1])] == [200, 200, 200, 201, 200]


def of_server(sqlstate: str, constraint: str | None = None) -> asyncpg.PostgresError:
    """The driver's exception for what the server says, as the driver makes it."""
    fields = {"S": "ERROR", "C": sqlstate} | dict.fromkeys("MDHts", "secret")
    return asyncpg.PostgresError.new(fields | ({"n": constraint} if constraint else {}))


OF_DRIVER = (asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.OutdatedSchemaCacheError)
OF_DRIVER += (asyncpg.ConnectionDoesNotExistError, TimeoutError, ConnectionResetError, OSError)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((of_server(state), status) for state, status in RAISED.items() if status != 500),
        *((of_server("23505", name), found.status) for name, found in CONSTRAINTS.items() if found),
        *((of_server(state), status) for state, status in OF_STATE.items() if len(state) == 5),
        *((of_server(f"{state}000"), status) for state, status in OF_STATE.items() if len(state) == 2),
        *((error("secret"), 503) for error in OF_DRIVER),
    ],
    ids=repr,
)
def test_an_error_of_the_database_becomes_a_problem(error: Exception, status: int) -> None:
    found = problem_of(error)
    assert isinstance(found, Problem)
    assert found.status == status
    assert (status == 503) == ("Retry-After" in found.headers)
    assert "secret" not in f"{found.document('id')}{found}"


@pytest.mark.parametrize(
    "error",
    [
        *(of_server(state) for state, status in RAISED.items() if status == 500),
        of_server("23505", "users_pkey"),
        *(error("secret") for error in (ValueError, KeyError, RecursionError, TypeError, AssertionError)),
    ],
    ids=repr,
)
def test_an_error_that_is_ours_becomes_no_problem(error: Exception) -> None:
    assert problem_of(error) is None


UNSTORABLE = [("bigint", 2**63), ("integer", 2**40), ("text", "\ud800"), ("text", "\x00"), ("jsonb", "\x00")]


def test_a_value_that_cannot_be_stored_is_a_422(config: Config) -> None:
    """What the driver or the server refuses to take as a value, by their real exceptions."""

    async def send() -> list[Exception]:
        connection = await connect(config)
        errors: list[Exception] = []
        for type_, value in UNSTORABLE:
            with pytest.raises(asyncpg.PostgresError) as caught:
                await connection.fetch(f"select $1::{type_}", value)
            errors.append(caught.value)
        await connection.close()
        return errors

    found = [(error, problem_of(error)) for error in asyncio.run(send())]
    assert [repr(error) for error, found in found if found is None or found.status != 422] == []


@pytest.mark.parametrize("option", ["sslmode=nonsense", "host=/nowhere"])
def test_a_database_url_that_is_wrong_is_not_the_clients_fault(config: Config, option: str) -> None:
    separator = "&" if "?" in str(config.database_url) else "?"
    url = DatabaseUrl(f"{config.database_url}{separator}{option}")
    with Service(with_settings(config, database_url=url)) as service, service.client("key") as client:
        problem(client.get("/users"), 503)
        assert client.get("/health/live").status_code == 200


def failures(client: httpx.Client, user: User) -> Iterator[httpx.Response]:
    """Answers that are problems, of many kinds."""
    path, headers = f"/users/{user['id']}", {"Content-Type": "application/json"}
    yield client.post("/users", content=b"x", headers=headers)
    yield client.get("/users", headers={"Authorization": "Bearer x"})
    yield client.get("/nope")
    yield client.put("/users")
    yield client.post("/users", json={"email": user["email"], "password": "correct horse"})
    yield client.patch(path, json={}, headers={"If-Match": '"99"'})
    yield client.post("/users", content=b" " * 300_000, headers=headers)
    yield client.post("/users", content=b"{}")
    yield client.post("/users", json={"email": "x", "password": "short", "a/b~c": 1})
    yield client.get("/users?limit=x&sort=y")


def test_every_problem_has_the_shape_of_rfc_9457(client: httpx.Client, users: list[User]) -> None:
    statuses = [400, 401, 404, 405, 409, 412, 413, 415, 422, 422]
    answers = [*failures(client, users[1])]
    documents = [problem(answer, status) for answer, status in zip(answers, statuses, strict=True)]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}
    for document in documents:
        assert document.keys() - {"errors"} == {"type", "title", "status", "detail", "request_id"}
        assert re.fullmatch(r"about:blank|urn:bareline:problem:[a-z-]+", document["type"])
        assert all(document[name] for name in ("title", "detail", "request_id"))
        assert all(error.keys() == {"pointer", "detail"} for error in document.get("errors", ()))
    assert pointers(documents[-2]) == {"#/email", "#/password", "#/a~1b~0c"}
    assert pointers(documents[-1]) == {"?limit", "?sort"}


def test_a_request_id_is_taken_where_it_is_a_plain_one(client: httpx.Client, users: list[User]) -> None:
    for id_ in ("a", "x" * 128, "4bf92f35-77b3-4da6", "a/b:c.d=e+f_g", "0"):
        assert client.get("/health/live", headers={"X-Request-Id": id_}).headers["X-Request-Id"] == id_
        missing = client.get("/users/99", headers={"X-Request-Id": id_})
        assert problem(missing, 404)["request_id"] == id_
    for odd in (b"", b"x" * 129, b"a b", b"a\tb", b'a"b', b"a{b", b"a,b", b"\xc3\xa4", b"a\\b", b"<"):
        missing = client.get("/users/99", headers={b"X-Request-Id": odd})
        assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", problem(missing, 404)["request_id"]), odd


def test_request_ids_are_unique(client: httpx.Client, users: list[User]) -> None:
    answers = [client.get("/health/live") for _ in range(200)] + [*failures(client, users[1])]
    assert len({response.headers["X-Request-Id"] for response in answers}) == len(answers)
