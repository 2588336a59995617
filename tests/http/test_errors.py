"""Errors: one table of the database's, one form of document, and none of the database's own words in it."""

import asyncio
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import httpx
import pytest

from svc.check.scratch import connect
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.http.problems import STATUSES, Problem, find_problem
from svc.postgres.errors import SQLSTATES, translate
from tests.support import add_option, pointers, problem, with_settings
from tests.support.things import CONSTRAINTS, make_key, serve_things
from tests.support.waiting import wait_for

Sql = Callable[..., list[tuple[Any, ...]]]
Row = dict[str, Any]

OF_STATE = {state: STATUSES[kind][0] for state, (kind, _) in SQLSTATES.items()}
"""SQLSTATE or its class → status."""


OWN_WORDS = re.compile(
    r"secret|select|insert|column|relation|constraint|does not exist|syntax|sqlstate|is_open"
    r"|things_|_pkey|_key\b|asyncpg|psycopg|postgres|traceback|\.py|\.sql|\b[0-9A-Z]{2}[0-9]{3}\b",
    re.IGNORECASE,
)
"""What a client must not read in an error: words of the database, of the driver, and of the code."""


def calls(client: httpx.Client, thing: Row, new: str = "dee") -> Iterator[httpx.Response]:
    """Call each operation that reads or writes things, but for the removal."""
    yield client.get(f"/things/{thing['id']}")
    yield client.get("/things?sort=name")
    yield client.post("/things", json={"name": new})
    yield client.patch(f"/things/{thing['id']}", json={"note": "Bea"})


SPOILT = [
    ("alter table things drop column note", "alter table things add column note text"),
    ("alter table things rename to stuff", "alter table stuff rename to things"),
    ("alter table things rename name to label", "alter table things rename label to name"),
]


def test_a_spoilt_schema_is_a_503_until_it_is_mended(
    client: httpx.Client, things: list[Row], sql: Sql
) -> None:
    names = (f"dee{number}" for number in itertools.count())

    def work() -> bool:
        return [answer.status_code for answer in calls(client, things[1], next(names))] == [
            200,
            200,
            201,
            200,
        ]

    for spoil, mend in SPOILT:
        sql(spoil)
        for response in calls(client, things[1]):
            assert problem(response, 503)["type"] == "urn:bareline:problem:schema-mismatch"
            assert not OWN_WORDS.search(response.text), response.text
            assert response.headers["Retry-After"]
        sql(mend)
        wait_for(work)  # what was proven while it was spoilt is refused for a while


def test_a_schema_that_is_mended_after_the_start_is_used_without_a_probe(config: Config, sql: Sql) -> None:
    token, (spoil, mend) = make_key(config), SPOILT[0]
    sql(spoil)
    with serve_things(config) as service, service.client(token) as client:
        problem(client.get("/things"), 503)
        sql(mend)
        wait_for(lambda: client.get("/things").status_code == 200)
        for name in ("ada", "bob"):
            assert client.post("/things", json={"name": name}).status_code == 201
        assert len(client.get("/things").json()["things"]) == 2


RAISE = """create or replace function raise_it() returns trigger language plpgsql as $$ begin
    raise exception using errcode = '{}', message = 'secret ' || new.name, detail = row_to_json(new)::text,
        hint = 'secret', table = 'secret', column = 'secret', constraint = 'secret', schema = 'secret';
end $$"""
RAISED = {"P0001": 500, "23514": 500, "23502": 500, "23505": 500, "XX000": 500, "22012": 500, "22003": 422}
RAISED |= {"22021": 422, "54001": 422, "40001": 503, "40P01": 503, "57014": 503, "53300": 503, "42501": 503}
RAISED |= {"55P03": 503, "0A000": 503, "08006": 503, "25006": 503}


def test_nothing_that_the_database_says_is_in_an_answer(
    client: httpx.Client, things: list[Row], sql: Sql
) -> None:
    sql("create or replace function raise_it() returns trigger language plpgsql as 'begin return new; end'")
    sql("create trigger spoilt before insert or update on things for each row execute function raise_it()")
    for sqlstate, status in RAISED.items():
        sql(RAISE.format(sqlstate))
        for method, path in (("POST", "/things"), ("PATCH", f"/things/{things[1]['id']}")):
            response = client.request(method, path, json={"name": "a name of its own"})
            assert problem(response, status), sqlstate
            assert not OWN_WORDS.search(response.text), response.text
            assert "of its own" not in response.text
            assert (status == 503) == ("Retry-After" in response.headers)
    sql("drop trigger spoilt on things")
    assert client.get("/things").json()["things"] == things
    assert [response.status_code for response in calls(client, things[1])] == [200, 200, 201, 200]


def test_a_broken_constraint_is_answered_as_the_table_says(client: httpx.Client, things: list[Row]) -> None:
    for constraint, method, change in (
        ("things_name_key", "POST", {"name": "ada"}),
        ("things_name_key", "PATCH", {"name": "cyd"}),
        ("things_size_is_positive", "POST", {"size": 0}),
        ("things_size_is_positive", "PATCH", {"size": -1}),
        ("things_parent_fkey", "POST", {"parent": 2**63 - 1}),
    ):
        refusal = CONSTRAINTS[constraint]
        assert refusal
        path, body = ("/things", {"name": "dee", **change}) if method == "POST" else ("/things/2", change)
        document = problem(client.request(method, path, json=body), refusal.status)
        assert document["type"] == f"urn:bareline:problem:{refusal.code}"
        assert document["errors"] == [{"pointer": refusal.pointer, "detail": refusal.detail}]
    assert client.get("/things").json()["things"] == things


def test_a_value_that_the_database_cannot_hold_is_a_422(client: httpx.Client, things: list[Row]) -> None:
    for size in (2**31, -(2**31) - 1, 2**63 - 1):
        problem(client.post("/things", json={"name": "dee", "size": size}), 422)
        problem(client.patch("/things/2", json={"size": size}), 422)
    assert client.get("/things").json()["things"] == things


def find(error: Exception) -> Problem | None:
    """Return the problem that an error of the driver becomes."""
    return find_problem(translate(error), CONSTRAINTS)


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
    found = find(error)
    assert isinstance(found, Problem)
    assert found.status == status
    assert (status == 503) == ("Retry-After" in found.headers)
    assert "secret" not in f"{found.document('id')}{found}"


@pytest.mark.parametrize(
    "error",
    [
        *(of_server(state) for state, status in RAISED.items() if status == 500),
        of_server("23505", "things_pkey"),
        *(error("secret") for error in (ValueError, KeyError, RecursionError, TypeError, AssertionError)),
    ],
    ids=repr,
)
def test_an_error_that_is_ours_becomes_no_problem(error: Exception) -> None:
    assert find(error) is None


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

    found = [(error, find(error)) for error in asyncio.run(send())]
    assert [repr(error) for error, found in found if found is None or found.status != 422] == []


@pytest.mark.parametrize("trouble", ["an option", "a host"])
def test_a_database_url_that_is_wrong_is_not_the_clients_fault(config: Config, trouble: str) -> None:
    nowhere = DatabaseUrl("postgresql://bareline@/postgres?host=/nowhere")
    url = add_option(config.database_url, "sslmode=nonsense") if trouble == "an option" else nowhere
    with serve_things(with_settings(config, database_url=url)) as service, service.client("key") as client:
        problem(client.get("/things"), 503)
        problem(client.get("/nope"), 404)  # it goes on


def failures(client: httpx.Client, thing: Row) -> Iterator[httpx.Response]:
    """Give answers that are problems, of many kinds."""
    path, headers = f"/things/{thing['id']}", {"Content-Type": "application/json"}
    yield client.post("/things", content=b"x", headers=headers)
    yield client.get("/things", headers={"Authorization": "Bearer x"})
    yield client.get("/nope")
    yield client.put("/things")
    yield client.post("/things", json={"name": thing["name"]})
    yield client.patch(path, json={}, headers={"If-Match": '"99"'})
    yield client.post("/things", content=b" " * 300_000, headers=headers)
    yield client.post("/things", content=b"{}")
    yield client.post("/things", json={"name": "", "size": "x", "a/b~c": 1})
    yield client.get("/things?limit=x&sort=y")


def test_every_problem_has_the_shape_of_rfc_9457(client: httpx.Client, things: list[Row]) -> None:
    statuses = [400, 401, 404, 405, 409, 412, 413, 415, 422, 422]
    answers = [*failures(client, things[1])]
    documents = [problem(answer, status) for answer, status in zip(answers, statuses, strict=True)]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}
    for document in documents:
        assert document.keys() - {"errors"} == {"type", "title", "status", "detail", "request_id"}
        assert re.fullmatch(r"about:blank|urn:bareline:problem:[a-z-]+", document["type"])
        assert all(document[name] for name in ("title", "detail", "request_id"))
        assert all(error.keys() == {"pointer", "detail"} for error in document.get("errors", ()))
    assert pointers(documents[-2]) == {"#/name", "#/size", "#/a~1b~0c"}
    assert pointers(documents[-1]) == {"?limit", "?sort"}


def test_a_request_id_is_taken_where_it_is_a_plain_one(client: httpx.Client, things: list[Row]) -> None:
    for id_ in ("a", "x" * 128, "4bf92f35-77b3-4da6", "a/b:c.d=e+f_g", "0"):
        assert client.get("/things", headers={"X-Request-Id": id_}).headers["X-Request-Id"] == id_
        missing = client.get("/things/99", headers={"X-Request-Id": id_})
        assert problem(missing, 404)["request_id"] == id_
    for odd in (b"", b"x" * 129, b"a b", b"a\tb", b'a"b', b"a{b", b"a,b", b"\xc3\xa4", b"a\\b", b"<"):
        missing = client.get("/things/99", headers={b"X-Request-Id": odd})
        assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", problem(missing, 404)["request_id"]), odd


def test_request_ids_are_unique(client: httpx.Client, things: list[Row]) -> None:
    answers = [client.get("/things") for _ in range(200)] + [*failures(client, things[1])]
    assert len({response.headers["X-Request-Id"] for response in answers}) == len(answers)
