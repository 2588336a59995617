"""Rows that others put into the table: what they may put there, and what becomes of those that were there before."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from svc.config import find_folder
from svc.database_url import DatabaseUrl
from svc.http.emails import Email
from svc.http.fields import Text
from svc.migrations import MigrationError, migrate
from svc.postgres.batching import Ids
from svc.postgres.pool import Database
from svc.users.constraints import CONSTRAINTS
from svc.users.handlers import UserQueries
from tests.support import Service, make_config, make_key, problem
from tests.support.databases import Databases
from tests.support.logs import forget_handlers, logged
from tests.support.odd_rows import (
    EMAIL,
    FIRST,
    LAST,
    ODD,
    RULES,
    Filled,
    insert,
    parse,
    read_rows,
    roll_back,
    serve,
)

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def odd(databases: Databases) -> Iterator[Filled]:
    """Odd rows to be read."""
    with serve(databases) as filled:
        yield filled


@pytest.fixture
def changing(databases: Databases) -> Iterator[Filled]:
    """Odd rows to be changed."""
    with serve(databases) as filled:
        yield filled


SLOW_LANE = {"Prefer": "nothing"}
"""No plain request: not one for the short cut."""


@pytest.mark.parametrize("headers", [{}, SLOW_LANE], ids=["short cut", "handler"])
def test_each_row_that_has_a_path_is_read(odd: Filled, headers: dict[str, str]) -> None:
    rows = read_rows(odd)
    for name, id_ in odd.ids.items():
        answer = odd.client.get(f"/users/{id_}", headers=headers)
        if id_ < 1:
            problem(answer, 404)
            continue
        assert (answer.status_code, parse(answer.json())) == (200, rows[id_]), name
        version = odd.sql("select version from users where id = %s", id_)[0][0]
        assert answer.headers["etag"] == f'"{version}"'
        again = odd.client.get(f"/users/{id_}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        profile = odd.client.get(f"/users/{id_}?fields=id,profile", headers=headers)
        assert list(profile.raise_for_status().json()) == ["id", "profile"], name


def test_a_batch_reads_them_as_they_are_read_alone(odd: Filled) -> None:
    async def read() -> None:
        database = Database(make_config(odd.url))
        queries, ids = UserQueries.bind(database), [*odd.ids.values()]
        alone = [await queries.get_user(id=id_, with_profile=False) for id_ in ids]
        together = {user.id: user for user in await queries.get_users(ids=Ids.of(ids))}
        await database.close()
        assert alone == [together[id_] for id_ in ids]

    asyncio.run(read())


ORDERS = {
    "id": "id",
    "email": "email",
    "created_at": "created_at, id",
}


def walk(odd: Filled, headers: dict[str, str], **query: object) -> Iterator[dict[str, Any]]:
    """All users of a list, page by page, following its links."""
    most = 2 * len(ODD) + 100  # pages; it would go on for ever where a cursor leads back
    target = str(httpx.URL("/users", params={name: str(value) for name, value in query.items()}))
    while target:
        most -= 1
        assert most
        page = odd.client.get(target, headers=headers)
        assert page.status_code == 200, page.text
        yield from page.json()["users"]
        target = page.links["next"]["url"] if "next" in page.links else ""


@pytest.mark.parametrize("sort", [sign + name for sign in ("", "-") for name in ORDERS])
def test_pages_go_on_past_them(odd: Filled, sort: str) -> None:
    order = ORDERS[sort.removeprefix("-")]
    order = order.replace(",", " desc,") + " desc" if sort.startswith("-") else order
    rows, ids = read_rows(odd), [id_ for (id_,) in odd.sql(f"select id from users order by {order}")]
    for limit, headers in ((1, {}), (1, SLOW_LANE), (3, {}), (1000, {})):
        found = [parse(user) for user in walk(odd, headers, sort=sort, limit=limit)]
        assert found == [rows[id_] for id_ in ids]
    found = [*walk(odd, {}, sort=sort, limit=2, fields="id,profile")]
    assert [user["id"] for user in found] == ids


def test_a_cursor_whose_row_has_gone_leads_on(changing: Filled) -> None:
    """Its moment went with it: others that are shown with the same one may come twice, but none is left out."""
    for sort, name in (("created_at", "for ever"), ("-created_at", "44 BC")):
        gone = changing.ids[name]
        pages = walk(changing, {}, sort=sort, limit=1)
        before = {gone}
        for user in pages:
            if user["id"] == gone:
                break
            before.add(user["id"])
        changing.sql("delete from users where id = %s", gone)
        following = {user["id"]: user["created_at"] for user in pages}
        assert before | following.keys() == {*read_rows(changing), gone}
        assert {following[id_] for id_ in before & following.keys()} <= {FIRST, LAST}


def test_filters_find_them_by_the_moment_that_is_shown(odd: Filled) -> None:
    rows = read_rows(odd)
    since = {"created_from": "2026-02-01T00:00:00Z"}
    for sort in ("id", "-email", "created_at"):
        found = [user["id"] for user in walk(odd, {}, sort=sort, limit=2, **since)]
        assert sorted(found) == [id_ for id_, row in rows.items() if row["created_at"].year == 9999]
        found = [user["id"] for user in walk(odd, {}, sort=sort, limit=2, created_to="2000-01-01T00:00:00Z")]
        assert sorted(found) == [id_ for id_, row in rows.items() if row["created_at"].year == 1]


def test_look_ups_find_them_by_id_and_by_what_is_an_address(odd: Filled) -> None:
    rows = read_rows(odd)
    ids = [id_ for id_ in odd.ids.values() if id_ > 0]
    found = odd.client.post("/users/lookup", json={"ids": ids}).raise_for_status().json()["users"]
    assert [parse(user) for user in found] == [rows[id_] for id_ in ids]
    for name, id_ in odd.ids.items():
        email = rows[id_]["email"]
        body = {"emails": [email]}
        many, one = (
            odd.client.post("/users/lookup", json=body),
            odd.client.get("/users", params={"email": email}),
        )
        if ODD[name].rule != EMAIL:
            found = many.json()["users"] + one.json()["users"]
            assert [parse(user) for user in found] == [rows[id_]] * 2, name
        else:  # it is no address, or another one in canonical form, which nobody has
            assert (many.status_code, one.status_code) in ((200, 200), (422, 422)), name
            assert one.status_code == 422 or (many.json(), one.json()["users"]) == ({"users": [None]}, [])


def test_a_change_of_another_field_is_made_or_says_what_is_wrong(changing: Filled) -> None:
    """Moments and versions come within what is shown of them; texts are the client's to set right."""
    rows = read_rows(changing)
    for name, id_ in changing.ids.items():
        curable, path = ODD[name].curable, f"/users/{id_}"
        other = {"profile": {"b": 1}} if curable == "display_name" else {"display_name": "Bob"}
        if id_ < 1:
            problem(changing.client.patch(path, json=other), 404)
            continue
        for change in (other, {"is_active": False}):
            answer = changing.client.patch(path, json=change)
            if curable:
                told = problem(answer, 409)
                assert told["type"].endswith(":stored-invalid"), name
                assert [error["pointer"] for error in told["errors"]] == [f"#/{curable}"]
            else:
                assert answer.status_code == 200, (name, answer.text)
                assert parse(answer.json())["created_at"] == rows[id_]["created_at"], name
        if curable:
            change["email" if curable == "email" else "display_name"] = f"cured{id_}@example.com"
            cured = changing.client.patch(path, json=change)
            assert cured.status_code == 200, (name, cured.text)
        changed = changing.client.get(path)
        assert (changed.status_code, changed.json()["is_active"]) == (200, False)
        tag = changed.headers["etag"]
        assert (
            changing.client.patch(path, json={"is_active": True}, headers={"If-Match": tag}).status_code
            == 200
        )
    kept = "select id from users where id = any(%s) and created_at between %s and %s and version > 0"
    served = [id_ for id_ in changing.ids.values() if id_ > 0]
    assert len(changing.sql(kept, served, FIRST, LAST)) == len(served)


def test_a_row_that_cannot_be_changed_keeps_no_other_from_it(changing: Filled) -> None:
    """They leave in one batch."""
    ids = [changing.ids["no address"], 1, 11, 21]

    async def change() -> list[int]:
        headers = dict(changing.client.headers)
        async with httpx.AsyncClient(
            base_url=changing.client.base_url, headers=headers, timeout=60
        ) as client:
            bodies = [
                client.patch(f"/users/{id_}", json={"is_active": False}) for _ in range(8) for id_ in ids
            ]
            return [answer.status_code for answer in await asyncio.gather(*bodies)]

    assert asyncio.run(change()) == [409, 200, 200, 200] * 8


def test_each_can_be_deleted(changing: Filled) -> None:
    for name, id_ in changing.ids.items():
        answer = changing.client.delete(f"/users/{id_}")
        assert answer.status_code == (204 if id_ > 0 else 404), name
    left = [row["id"] for row in walk(changing, {}, limit=1000)]
    assert left == [id_ for id_ in read_rows(changing) if id_ % 10 == 1 or id_ < 1]


def test_who_referred_an_odd_one_is_deleted_once_that_is_set_right(changing: Filled) -> None:
    """To forget who referred a row is to change it."""
    odd_one = changing.ids["upper case"]
    changing.sql("alter table users drop constraint users_email_is_canonical")
    changing.sql("update users set referred_by = 1 where id = %s", odd_one)
    changing.sql(
        "alter table users add constraint users_email_is_canonical check (email = lower(email)) not valid"
    )
    assert problem(changing.client.delete("/users/1"), 409)["type"].endswith(":stored-invalid")
    changing.client.patch(f"/users/{odd_one}", json={"email": "upper@example.com"}).raise_for_status()
    assert changing.client.delete("/users/1").status_code == 204
    assert changing.sql("select referred_by from users where id = %s", odd_one) == [(None,)]


def test_an_answer_to_a_retry_is_given_whatever_is_stored_with_it(client: httpx.Client, sql: Sql) -> None:
    body, headers = {"email": "ada@example.com", "password": "correct horse"}, {"Idempotency-Key": "one"}
    first = client.post("/users", json=body, headers=headers).json()
    for moment in ("infinity", "10000-01-01 00:00Z"):
        sql("update idempotency_keys set created_at = %s", moment)
        again = client.post("/users", json=body, headers=headers)
        assert (again.status_code, again.json()) == (201, first | {"created_at": LAST})
    for hash_ in ("", "plain", "$argon2id$v=19$m=8,t=1,p=1$"):
        sql("update idempotency_keys set hashed_password = %s", hash_)
        assert problem(client.post("/users", json=body, headers=headers), 422)["type"].endswith(":key-reused")


def test_each_rule_refuses_what_others_put_in(database_url: DatabaseUrl) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        insert(connection, 1, {})
        for number, (name, odd) in enumerate(ODD.items(), 2):
            if odd.rule is None:
                insert(connection, number, odd.columns)
                continue
            with pytest.raises(psycopg.errors.CheckViolation) as refused:
                insert(connection, number, odd.columns)
            assert refused.value.diag.constraint_name == odd.rule, name
            if "id" not in odd.columns:
                setting = ", ".join(f"{column} = %({column})s" for column in odd.columns)
                with pytest.raises(psycopg.errors.CheckViolation):
                    connection.execute(f"update users set {setting} where id = 1".encode(), odd.columns)
    assert {odd.rule for odd in ODD.values()} - {None} == {name for name in CONSTRAINTS if is_stored(name)}


def is_stored(name: str) -> bool:
    """Whether a constraint is one that no request can break, but what is stored can."""
    refusal = CONSTRAINTS[name]
    return refusal is not None and refusal.code == "stored-invalid"


def test_every_address_and_name_that_the_service_takes_fits_the_rules(
    database_url: DatabaseUrl, request: pytest.FixtureRequest
) -> None:
    """One of each letter that there is, at any place; every 97th unless in full."""
    step = 1 if request.config.getoption("--full") else 97
    taken: list[str] = []
    for number in range(0x80, 0x4_0000, step):
        for address in (f"{chr(number)}A@example.com", f"a{chr(number) * 3}@exa{chr(number)}mple.com"):
            try:
                taken.append(Email.parse(address))
            except ValueError:
                continue
    taken += [
        Email.parse(f"{'x' * 64}@{'.'.join(['y' * 60] * 3)}.com"),
        Email.parse("İ" * 30 + "@example.com"),
    ]
    names = [
        chr(number) for number in (*range(0x300), *range(0x300, 0x11_0000, step)) if is_text(chr(number))
    ]
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "create temporary table taken (like users including constraints including defaults)"
        )
        insert_them = "insert into taken (id, email, hashed_password, display_name) select 1, {}, 'x', {} from unnest(%s::text[]) as t"
        connection.execute(insert_them.format("t", "null").encode(), [taken])
        connection.execute(insert_them.format("'a@example.com'", "t").encode(), [[*names, "x" * 200]])
    assert len(taken) > 500


def is_text(text: str) -> bool:
    """Whether it may be a name."""
    try:
        return bool(msgspec.json.decode(json.dumps(text), type=Text))
    except msgspec.DecodeError:
        return False


def test_the_rules_that_rows_break_are_not_validated_until_these_are_set_right(
    changing: Filled, capfd: pytest.CaptureFixture[str]
) -> None:
    """The migration goes through, the service is ready, and its log names each rule when it starts."""
    pending = "select conname from pg_constraint where conrelid = 'users'::regclass and not convalidated"
    rules = {odd.rule for odd in ODD.values()} - {None}
    assert {name for (name,) in changing.sql(pending)} == rules
    assert changing.client.get("/health/ready").status_code == 200
    forget_handlers()
    config = make_config(changing.url)
    with logged(Service(config), make_key(config), capfd) as (_, log):
        pass
    said = [line["message"] for line in log.lines if "NOT VALID, proven as" in line["message"]]
    assert all(any(f"constraint users.{rule} is CHECK" in line for line in said) for rule in rules)
    with pytest.raises(psycopg.errors.CheckViolation):
        changing.sql(f"alter table users validate constraint {EMAIL}")
    changing.sql("delete from users where id = any(%s)", [*changing.ids.values()])
    for rule in rules:
        changing.sql(f"alter table users validate constraint {rule}")
    assert changing.sql(pending) == []


def test_where_no_row_breaks_a_rule_all_are_validated(sql: Sql) -> None:
    assert sql("select conname from pg_constraint where contype = 'c' and not convalidated") == []


def test_a_migration_that_waits_for_a_lock_gives_up_and_lets_others_pass(
    database_url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(database_url)
    later = roll_back(config)
    folder = shutil.copytree(find_folder("migrations"), tmp_path / "migrations")
    rules = folder / f"{RULES[0]}.sql"
    text = rules.read_text(encoding="utf-8")
    assert "lock_timeout = '3s'" in text
    rules.write_text(text.replace("'3s'", "'20ms'"), encoding="utf-8")
    with psycopg.connect(database_url) as reader:
        reader.execute("select from users")
        with monkeypatch.context() as patch:
            patch.setattr("svc.migrations.find_folder", lambda _: folder)
            with pytest.raises(MigrationError, match="lock timeout"):
                asyncio.run(migrate(config))
    assert asyncio.run(migrate(config)) == later
