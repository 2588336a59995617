"""GET /users/export: all users, once, as they were at one moment; and a cut one shows."""

import csv
import io
import itertools
import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svc.config import Config
from tests.support import Service, make_key, problem, with_settings
from tests.support.exports import FILL, PATH, find_exports
from tests.support.raw import Wire, make, status_of
from tests.support.users import ANY_TEXT
from tests.support.waiting import wait_for

Sql = Callable[..., list[tuple[Any, ...]]]

CSV = {"Accept": "text/csv"}
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def from_csv(text: str) -> list[dict[str, Any]]:
    """Users out of CSV. Python's reader does not tell null from empty text, so the tests that need it look themselves."""
    names = {"true": True, "false": False}
    return [
        row
        | {
            "id": int(row["id"]),
            "is_active": names[row["is_active"]],
            "email": row["email"].removeprefix("'"),
            "display_name": row["display_name"].removeprefix("'") or None,
        }
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]


def listed(client: httpx.Client) -> list[dict[str, Any]]:
    """All users as the list has them."""
    found, query = list[dict[str, Any]](), {"limit": "1000"}
    while True:
        page = client.get("/users", params=query).json()
        found += page["users"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_an_export_has_every_user_once_as_the_list_has_them(
    client: httpx.Client, sql: Sql, count: int
) -> None:
    sql(FILL, count)
    sql("delete from users where id % 7 = 0")
    users = listed(client)
    answer = client.get(PATH).raise_for_status()
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == users
    assert answer.text == "".join(json.dumps(user, separators=(",", ":")) + "\n" for user in users)
    in_csv = client.get(PATH, headers=CSV).raise_for_status()
    assert in_csv.headers["content-type"].startswith("text/csv")
    assert in_csv.text.startswith("id,email,display_name,is_active,created_at\r\n")
    assert from_csv(in_csv.text) == users
    last = str(users[-1]["id"] if users else 0)
    assert answer.headers["x-last-id"] == in_csv.headers["x-last-id"] == last


@settings(max_examples=30)
@given(st.lists(st.tuples(TEXTS, st.none() | TEXTS, st.booleans(), st.datetimes()), max_size=5))
def test_any_text_and_time_comes_through(client: httpx.Client, sql: Sql, rows: list[Any]) -> None:
    """What no endpoint would let in, too: quotes, line ends, an empty name that is not null."""
    sql(f"delete from users; {ANY_TEXT.replace('constraint', 'constraint if exists')}")  # each example anew
    for number, (email, name, active, moment) in enumerate(rows):
        sql(
            "insert into users (email, hashed_password, display_name, is_active, created_at) values (%s, 'x', %s, %s, %s)",
            f"{email}{number}", name, active, f"{moment.isoformat()}+00:00",
        )  # fmt: skip
    answer = client.get(PATH).content.decode()
    users = [json.loads(line) for line in answer.split("\n")[:-1]]
    assert [(user["email"], user["display_name"], user["is_active"]) for user in users] == [
        (f"{email}{number}", name, active) for number, (email, name, active, _) in enumerate(rows)
    ]
    for user in users:  # the encoder that every other endpoint has writes it the same
        assert client.get(f"/users/{user['id']}").json() == user
    in_csv = client.get(PATH, headers=CSV).content.decode()
    assert from_csv(in_csv) == [user | {"display_name": user["display_name"] or None} for user in users]


def test_csv_tells_an_empty_name_from_none(client: httpx.Client, sql: Sql) -> None:
    sql(ANY_TEXT)
    for name in (None, "", '"'):
        sql(
            "insert into users (email, hashed_password, display_name) values (%s, 'x', %s)",
            f"{name}@x.com",
            name,
        )
    rows = client.get(PATH, headers=CSV).text.split("\r\n")[1:-1]
    assert [re.fullmatch('[0-9]+,"[^,]*",(.*),true,.*Z', row)[1] for row in rows] == ["", '""', '""""']


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("*/*", "application/x-ndjson"),
        ("application/*", "application/x-ndjson"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV; header=present", "text/csv"),
        ("text/*", "text/csv"),
        ("text/csv, */*", "application/x-ndjson"),
        ("text/csv, */*;q=0.1", "text/csv"),
        ("text/csv;q=0.5, application/x-ndjson;q=0.4", "text/csv"),
        ("text/html, application/json;q=0.9, */*;q=0.8", "application/x-ndjson"),
        ("application/x-ndjson;q=0, */*", "text/csv"),
        ("application/json", None),
        ("text/csv;q=0", None),
        ("text/csv;q=nonsense", None),
        ("image/*, text/plain", None),
    ],
)
def test_accept_chooses_the_form(client: httpx.Client, accept: str, chosen: str | None) -> None:
    answer = client.get(PATH, headers={"Accept": accept})
    if chosen:
        assert (answer.status_code, answer.headers["content-type"]) == (200, chosen)
    else:
        problem(answer, 406)


def test_an_export_needs_the_scope_to_read(service: Service) -> None:
    with service.client(make_key(service.config, "users:write")) as writer, service.client() as nobody:
        problem(writer.get(PATH), 403)
        problem(nobody.get(PATH), 401)


def test_head_answers_no_users(client: httpx.Client, users: list[dict[str, Any]]) -> None:
    answer = client.head(PATH)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["x-last-id"] == str(users[-1]["id"])
    assert len(client.get("/users").json()["users"]) == 3  # the connection goes on


def test_an_export_is_of_one_moment(client: httpx.Client, sql: Sql) -> None:
    """Users change, go and come while the client has read no more than the beginning."""
    sql(FILL, 60_000)
    before = sql("select id, email from users order by id")
    with client.stream("GET", PATH) as answer:
        lines = answer.iter_lines()
        read = list(itertools.islice(lines, 10))
        assert find_exports(sql)
        sql("update users set email = 'new' || email where id % 3 = 0")
        sql("delete from users where id % 3 = 1")
        sql("insert into users (email, hashed_password) values ('late@example.com', 'secret')")
        read += lines
        users = [json.loads(line) for line in read]
    assert [(user["id"], user["email"]) for user in users] == before
    assert answer.headers["x-last-id"] == str(before[-1][0])


def test_an_export_may_take_longer_than_a_query(config: Config, sql: Sql) -> None:
    sql(FILL, 60_000)
    slow = with_settings(config, query_timeout=1)
    with (
        Service(slow) as service,
        service.client(make_key(slow)) as client,
        client.stream("GET", PATH) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        time.sleep(1.5)
        assert sum(1 for _ in lines) == 59_999


def read_while_killed(client: httpx.Client, sql: Sql, parts: list[str], headers: dict[str, str]) -> None:
    """Reads an export whose connection to the database is ended under way; checks its header."""
    with client.stream("GET", PATH, headers=headers) as answer:
        assert answer.headers["x-last-id"] == "100000"
        for part in answer.iter_text():
            parts.append(part)
            for pid in (
                find_exports(sql) if len(parts) > 1 else []
            ):  # the first may be the columns' names alone
                sql("select pg_terminate_backend(%s)", pid)


@pytest.mark.parametrize("headers", [{}, CSV])
def test_a_database_that_dies_in_the_middle_leaves_a_cut_export(
    client: httpx.Client, sql: Sql, headers: dict[str, str]
) -> None:
    """The chunks do not end; and where something in between mends that, the last line is not the last user."""
    sql(FILL, 100_000)
    parts: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        read_while_killed(client, sql, parts, headers)
    ids = re.findall('^(?:{"id":)?([0-9]+),', "".join(parts), re.MULTILINE)
    assert 0 < int(ids[-1]) < 100_000
    assert re.findall('"id":([0-9]+),', client.get(PATH).text)[-1] == "100000"


def test_a_database_that_is_away_is_a_problem(
    config: Config, service: Service, client: httpx.Client, sql: Sql
) -> None:
    client.get(PATH).raise_for_status()
    sql("alter table users rename to away")
    assert problem(client.get(PATH), 503)["type"] == "urn:bareline:problem:schema-mismatch"
    sql("alter table away rename to users")
    wait_for(lambda: client.get(PATH).status_code == 200)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "'", "''", "=="])
def test_no_cell_is_a_formula_and_each_reads_the_same_without_its_apostrophe(
    client: httpx.Client, sql: Sql, start: str
) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    sql(ANY_TEXT)
    sql("insert into users (email, hashed_password, display_name) values ('a@b.de', 'x', %s)", name)
    (row,) = csv.DictReader(io.StringIO(client.get(PATH, headers=CSV).content.decode(), newline=""))
    assert (row["display_name"], row["email"]) == ("'" + name, "a@b.de")


def test_an_export_is_no_page_and_is_not_kept(client: httpx.Client) -> None:
    for headers, name in (({}, "users.ndjson"), (CSV, "users.csv")):
        head = client.head(PATH, headers=headers).headers
        assert head["content-disposition"] == f'attachment; filename="{name}"'
        assert (head["cache-control"], head["x-content-type-options"]) == ("no-store", "nosniff")


def test_a_client_of_http_1_0_gets_no_chunks_and_keeps_its_connection_where_it_asks(service: Service) -> None:
    running, key = service, f"Authorization: Bearer {make_key(service.config)}"
    with Wire(running) as wire:
        for _ in range(3):
            answer = wire.ask(make("GET /health/live HTTP/1.0", "Connection: keep-alive"))
            assert b"\r\nconnection: keep-alive\r\n" in answer
        wire.send(make("GET /users/export HTTP/1.0", key, "Connection: keep-alive"))
        answer = wire.read_all()
    assert status_of(answer) == 200
    assert b"transfer-encoding" not in answer
    assert b"\r\nconnection: close\r\n" in answer
