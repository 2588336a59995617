"""What `svc check` finds on filled tables: nulls that are refused, annotations that lie, indexes not used."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

import asyncpg
import msgspec
import pytest
from msgspec import Struct

from svc.check.command import Pair, Report
from svc.check.findings import Finding
from svc.check.growth import Growth, is_hot
from svc.check.laboratory import fill
from svc.check.prove import Proof, Schema, read_schema
from svc.check.scratch import ScratchConnection as Connection
from svc.check.scratch import connect
from svc.check.trials import Experiment
from svc.database_url import DatabaseUrl
from svc.postgres.queries import Signature
from svc.postgres.statements import read_queries
from tests.support import TEMPLATE, at, make_config, skip_before_18

T = TypeVar("T")
Filled = tuple[DatabaseUrl, Schema]

SCHEMA = """
create type mood as enum ('glad', 'sad');
create table teams (
    id bigint generated always as identity primary key, name text not null unique, motto text,
    size bigint not null default 0 check (size >= 0), made_at timestamptz not null default now(),
    gone_at timestamptz
);
create index teams_made_at_id_idx on teams (made_at, id);
create table jottings (
    id bigint generated always as identity primary key, team_id bigint references teams (id),
    author text not null, content text
);
create table keyed (
    id bigint generated always as identity primary key, content text not null, num numeric, flag boolean,
    words text, chars varchar(9), bytes bytea, uuid uuid, day date, at timestamptz, mood mood, list text[]
);
create table short (id bigint generated always as identity, code char(2) not null, moods mood[] not null);
"""


@pytest.fixture(scope="module")
def filled(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[Filled]:
    async def make(connection: Connection) -> Schema:
        await connection.execute(SCHEMA)
        schema = await read_schema(connection)
        await fill(connection, schema, {"teams", "jottings", "keyed"})
        return schema

    skip_before_18(server_url)
    name = f"{TEMPLATE}_trials"
    admin(f"create database {name} template template0")
    yield at(server_url, name), run(at(server_url, name), make)
    admin(f"drop database {name} with (force)")


def run(url: DatabaseUrl, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
    async def lend() -> T:
        connection = await connect(make_config(url))
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(lend())


TYPES = {
    "id": int, "n": int, "sure": str, "code": str, "moods": list[Literal["glad", "sad"]],
    "name": str | None, "motto": str | None, "author": str | None, "content": str | None, "size": int | None,
}  # fmt: skip


def query(statement: str, kind: str = "exec", row: Any = None, annotations: str = "", **types: Any) -> Pair:
    """A query, which begins on line 2 unless there are annotations, and its signature."""
    text = f"-- name: made :{kind}\n{annotations}{statement};\n"
    (parsed,) = read_queries(text, Path("made.sql")).values()
    names = [name.partition(".")[0] for name in parsed.parameters]
    return parsed, Signature("made", {n: (TYPES | types)[n] for n in names}, row, kind == "many", False)


def check(filled: Filled, pair: Pair) -> list[Finding]:
    """What shows before it is run, and then when it is."""

    async def work(connection: Connection) -> list[Finding]:
        proven = await Proof(connection, filled[1], *pair).run()
        tried = await Experiment(connection, filled[1], *pair).run()
        plans = await Growth(connection, filled[1].labels, *pair).check() if is_hot(pair[0]) else []
        return [*proven, *tried, *plans]

    return run(filled[0], work)


def test_an_optional_parameter_where_null_is_refused_is_found_at_its_place(filled: Filled) -> None:
    (found,) = check(filled, query("insert into jottings (content, author)\nvalues (:content, :author)"))
    assert (found.kind, found.file, found.line, found.column) == ("null-parameter", "made.sql", 3, 19)
    assert found.expected == "author may be null, as its type says"
    assert (found.found, found.warning) == ("jottings.author refuses null", False)


LYING = [
    "update teams set name = :name where id = :id",
    "update teams set size = :size",
    "update teams set name = :name where id = :id and gone_at is null",
    "update teams set name = :name where id = :id and gone_at is not null",
    "insert into jottings (author) values (lower(:author))",
    "insert into teams (name) values ('v@1') on conflict (name) do update set size = :size",
    "with gone as (delete from jottings where id = :id) insert into jottings (author) values (:author)",
]


@pytest.mark.parametrize("statement", LYING)
def test_a_parameter_that_must_not_be_null_is_found_once(filled: Filled, statement: str) -> None:
    (found,) = check(filled, query(statement))
    assert (found.kind, found.warning) == ("null-parameter", False)
    assert found.expected.endswith("may be null, as its type says")


KEYS = {
    "id": int, "num": Decimal, "flag": bool, "words": str, "chars": str, "bytes": bytes, "uuid": UUID,
    "day": date, "at": datetime, "mood": Literal["glad", "sad"], "list": list[str],
}  # fmt: skip


@pytest.mark.parametrize(("column", "type_"), KEYS.items(), ids=KEYS)
def test_a_parameter_of_any_type_finds_a_row(filled: Filled, column: str, type_: Any) -> None:
    found = check(filled, query(f"update keyed set content = :content where {column} = :key", key=type_))
    assert [finding.found for finding in found] == ["keyed.content refuses null"]


HONEST = [
    "update teams set name = :sure where id = :id",
    "update teams set motto = :motto where id = :id",
    "update teams set name = coalesce(:name, name) where id = :id",
    "update teams set size = case when :size::bigint is null then size else :size end where id = :id",
    "delete from keyed where (:name::text is null or words = :name)",
    "insert into teams (name) values (:sure)",
    "insert into short (code, moods) values (:code, '{}')",
    "insert into short (code, moods) values ('a', :moods)",
]
FAILING_OTHERWISE = [
    "insert into teams (name) values ('v@1')",
    "insert into jottings (author, team_id) values ('x', -1)",
    "update teams set size = -1",
    "update teams set motto = (1 / (:n::bigint - 1))::text where :n::bigint < 2",
    "update teams set size = (name || 'x')::bigint where :motto::text is null",
    "update teams set size = (select id from jottings)",
]


@pytest.mark.parametrize("statement", HONEST + FAILING_OTHERWISE)
def test_a_query_without_a_refused_null_is_left_alone(filled: Filled, statement: str) -> None:
    assert check(filled, query(statement)) == []


def test_a_column_that_needs_a_value_and_is_not_named_is_found(filled: Filled) -> None:
    (found,) = check(filled, query("insert into jottings (content) values (:content)"))
    assert (found.kind, found.line, found.found) == ("null-parameter", 1, "jottings.author refuses null")
    assert found.expected == "every column that needs a value has one"


def test_the_trials_leave_nothing_behind(filled: Filled) -> None:
    writing = [
        query("insert into jottings (author, content) values (:sure, :content)"),
        query("update teams set size = size + 1, motto = :motto"),
        query("delete from jottings", "execrows", int),
        query("truncate keyed"),
        query("select set_config('lock_timeout', '77s', false)", "many", str, annotations="-- @hot\n"),
    ]
    rows = "select md5(string_agg(t::text, '' order by id)) from {} t".format
    state = ["show lock_timeout", "show plan_cache_mode", *map(rows, ("teams", "jottings", "keyed"))]

    async def work(connection: Connection) -> None:
        before = [await connection.fetchval(part) for part in state]
        for pair in writing:
            assert await Experiment(connection, filled[1], *pair).run() == []
        assert [await connection.fetchval(part) for part in state] == before

    run(filled[0], work)


class Labelled(Struct):
    id: int
    label: str


def annotated(statement: str, *annotations: str, **types: Any) -> Pair:
    return query(
        statement,
        "many",
        Labelled,
        "".join(f"-- @not_null: {annotation}\n" for annotation in annotations),
        **types,
    )


TRUE = [
    (["label"], "select id, nullif(name, '') as label from teams"),
    (["label"], "select id, (select min(name) from teams) as label from teams"),
    (["id, label"], "select nullif(id, -1) as id, nullif(name, '') as label from teams"),
    (["label", "id"], "select nullif(id, -1) as id, nullif(name, '') as label from teams"),
]


@pytest.mark.parametrize(("annotations", "statement"), TRUE)
def test_an_annotation_that_is_true_is_trusted(
    filled: Filled, annotations: list[str], statement: str
) -> None:
    assert check(filled, annotated(statement, *annotations)) == []


LIES = [
    "select id, nullif(name, 'v@7') as label from teams",
    "select id, motto as label from teams",
    "select id, motto as label from teams where id = :id",
    "select n.id, t.name as label from jottings n left join teams t on t.id = n.team_id",
    "select id, :name::text as label from teams",
    "select id, nullif(words, words) as label from keyed where uuid = :key",
]


@pytest.mark.parametrize("statement", LIES)
def test_an_annotation_that_lies_is_an_error(filled: Filled, statement: str) -> None:
    (found,) = check(filled, annotated(statement, "label", key=UUID))
    assert (found.kind, found.found, found.warning) == ("annotation", "label was null", False)


@pytest.mark.parametrize("annotation", ["-- @not_null: nmae\n", "-- @hott\n", "-- @not_null\n", "-- @Hot\n"])
def test_an_annotation_that_means_nothing_is_an_error(filled: Filled, annotation: str) -> None:
    found = check(filled, query("select name from teams", "many", str, annotation))
    assert {(finding.kind, finding.warning) for finding in found} == {("annotation", False)}


class Loose(Struct):
    id: int
    name: str | None


WARNINGS = [
    (
        "annotation",
        3,
        "no annotation: label is never null",
        annotated("select id, name as label from teams", "label"),
    ),
    ("nullability", 2, "name: str | None", query("select id, name from teams", "many", Loose)),
]


@pytest.mark.parametrize(("kind", "line", "expected", "pair"), WARNINGS, ids=["annotation", "field"])
def test_what_is_looser_than_the_schema_is_a_warning_and_does_not_fail_the_check(
    filled: Filled, kind: str, line: int, expected: str, pair: Pair
) -> None:
    (found,) = check(filled, pair)
    assert (found.kind, found.line, found.expected, found.warning) == (kind, line, expected, True)
    assert Report(1, 1, 0, [found]).agrees
    assert not Report(1, 1, 0, [found, msgspec.structs.replace(found, warning=False)]).agrees


HOT = [  # with the table that is read whole
    ("", "select id from teams where (made_at, id) > (now(), :n) order by made_at, id limit 10"),
    ("", "select id from teams where (made_at, id) < (now(), :n) order by made_at desc, id desc limit 10"),
    ("", "select n.id from jottings n join teams t on t.id = n.team_id where n.id = :n"),
    ("", "explain select id from jottings where team_id = :n"),
    ("", "update teams set size = 1 where id = :n"),
    ("", "insert into jottings (author) values ('a' || :n::bigint)"),
    ("teams", "select id from teams where size = :n"),
    ("jottings", "select id from jottings where (author, id) > ('a', :n) order by author, id limit 10"),
    ("jottings", "select id from jottings where (:n::bigint is null or id = :n) order by author limit 10"),
    ("jottings", "select n.id from teams t join jottings n on n.team_id = t.id where t.id = :n"),
    (
        "jottings",
        "select (select max(n.id) from jottings n where n.team_id = t.id) from teams t where t.id = :n",
    ),
    ("jottings", "delete from jottings where team_id = :n"),
]


@pytest.mark.parametrize(("table", "statement"), HOT)
def test_a_hot_query_uses_an_index(filled: Filled, table: str, statement: str) -> None:
    expected = [("plan", f"an index on {table}, since it is @hot")] if table else []
    found = check(filled, query(statement, annotations="-- @hot\n"))
    assert [(finding.kind, finding.expected) for finding in found] == expected
    assert check(filled, query(statement)) == []


KINDS = "create type mood as enum ('glad', 'sad'); create domain letters as text check (value ~ '^[a-z]+$')"
TABLES = [f"create table made (name text, made {column})" for column in (
    "varchar(3) not null", "char(2) not null", "numeric(3, 1) not null", "mood not null", "time not null",
    "timestamp(3) not null", "timestamptz(3) not null", "int[] not null", "numeric(3, 1)[] not null",
    "letters not null", "text not null check (made ~ '^[A-Z]$')", "smallint unique", "inet not null",
)]  # fmt: skip
TABLES += [
    "create table made (name text) partition by range (name)",
    "create table made (name text check (name > 'w')); create table heir () inherits (made)",
    "create view made as select count(*) as n from pg_class",
    "create materialized view made as select oid as id from pg_class",
]


def test_no_table_stops_the_check(empty_url: DatabaseUrl) -> None:
    skip_before_18(empty_url)

    async def work(connection: Connection) -> dict[str, str]:
        stopped: dict[str, str] = {}
        for making in TABLES:
            await connection.execute(f"drop schema public cascade; create schema public; {KINDS}; {making}")
            try:
                await fill(connection, await read_schema(connection), {"made"})
            except asyncpg.PostgresError as error:
                stopped[making] = str(error)
        return stopped

    assert run(empty_url, work) == {}


FILLED = """
create table made (
    id bigint generated always as identity primary key, notes jsonb not null, more json, score numeric(3,2) not null,
    whole numeric(4), words varchar(3)[] not null, numbers numeric(3,1)[], documents jsonb[] not null, flags boolean[],
    at timestamptz(0) not null, day date, span interval, mood mood not null, moods mood[], code char(2) not null
)
"""


def test_a_table_of_any_usual_types_is_filled(filled: Filled) -> None:
    async def work(connection: Connection) -> tuple[dict[str, str], int]:
        await connection.execute(FILLED)
        try:
            found = await fill(connection, await read_schema(connection), {"made"}, 100)
            return found, await connection.fetchval("select count(*) from made")
        finally:
            await connection.execute("drop table made")

    assert run(filled[0], work) == ({}, 100)


def test_a_table_that_cannot_be_filled_is_told(filled: Filled) -> None:
    async def work(connection: Connection) -> dict[str, str]:
        await connection.execute("create table made (id bigint primary key, place point not null)")
        try:
            return await fill(connection, await read_schema(connection), {"made"}, 100)
        finally:
            await connection.execute("drop table made")

    ((table, reason),) = run(filled[0], work).items()
    assert (table, reason[:5]) == ("made", "23502")


def test_a_statement_that_does_not_plan_is_tried_all_the_same(filled: Filled) -> None:
    def find_in(statement: str, annotations: str = "") -> list[tuple[str, str]]:
        return [(each.kind, each.found) for each in check(filled, query(statement, annotations=annotations))]

    for statement in ("truncate jottings", "analyze teams", "lock table teams in access exclusive mode"):
        assert find_in(statement) == []
    ((kind, found),) = find_in("truncate teams")
    assert kind == "trial"
    assert found.startswith("0A000 cannot truncate a table referenced in a foreign key constraint")
    assert find_in("truncate teams", "-- @may_fail: it is asked before\n") == []
    assert find_in("truncate teams", "-- @may_fail\n") == [("annotation", "no reason")]
    assert find_in("select id from teams", "-- @may_fail: why\n") == [("annotation", "why")]
