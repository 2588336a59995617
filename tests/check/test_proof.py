"""`svc check` on queries made for the purpose: what it must find, and what it must leave alone."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from msgspec import Meta, Raw

from svc.check.prove import Proof, read_schema
from svc.check.scratch import connect
from svc.database_url import DatabaseUrl
from svc.http.fields import JsonObject
from tests.support import make_config
from tests.support.proofs import having, pair, prove, prove_each

SCHEMA = """
create type mood as enum ('glad', 'sad');
create table teams (
    id bigint generated always as identity primary key,
    name text not null,
    motto text,
    token bytea,
    unique (name)
);
comment on column teams.token is 'secret';
create table members (
    id bigint generated always as identity primary key,
    team_id bigint references teams (id),
    email text not null,
    rank int not null default 0,
    mood mood not null default 'glad',
    born date,
    seen timestamp,
    paid numeric not null default 0,
    tag uuid,
    labels text[] not null default '{}',
    notes jsonb not null default '{}',
    unique (team_id, email)
);
create index members_email_idx on members (email);
create table reserved (id bigint primary key, slot bigint not null unique deferrable initially deferred);
create table halves (a text, b text, c text);
alter table halves add constraint a_given not null a not valid;
create table parents (a text, b text not null, constraint a_given not null a no inherit);
create table children () inherits (parents);
create view team_names as select name, motto from teams;
create domain code as text not null;
create domain sure as code;
create table domains (code code, maybe text, sure sure);
create view outer_domains as select t.name, d.code from teams t left join domains d on d.maybe = t.name;
"""


@pytest.fixture(scope="module")
def made(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[DatabaseUrl]:
    """A database with two tables that have a bit of everything."""
    with having(server_url, admin, SCHEMA) as url:
        yield url


async def rows(self: object) -> list[int]: ...


def test_a_statement_that_does_not_prepare_is_shown_at_its_place(made: DatabaseUrl) -> None:
    async def list_teams(self: object, *, name: str) -> list[int]: ...

    (found,) = prove(made, pair(list_teams, "select id\nfrom teams\nwhere name = :name and nmae = :name"))
    assert (found.kind, found.file, found.line, found.column) == ("sql", "made.sql", 5, 24)
    assert str(found).splitlines()[-2:] == ["  | where name = :name and nmae = :name", "  |" + " " * 24 + "^"]


def test_a_row_that_the_driver_cannot_read_is_a_finding(made: DatabaseUrl) -> None:
    (found,) = prove(made, pair(rows, "select members from members"))
    assert (found.kind, found.expected) == ("sql", "types that the driver reads")


def test_a_tree_that_is_read_wrongly_is_a_finding(made: DatabaseUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise KeyError("relid")

    monkeypatch.setattr("svc.check.prove.is_single", fail)
    (found,) = prove(made, pair(rows, "select id from teams limit 1", "one"))
    assert (found.kind, found.query, "KeyError: 'relid'" in found.found) == ("sql", "rows", True)


@pytest.mark.parametrize(
    "statement", ["analyze {}", "truncate {} restart identity", "lock table {} in share mode"]
)
def test_a_statement_about_a_table_needs_the_table(made: DatabaseUrl, statement: str) -> None:
    async def attend(self: object) -> None: ...

    assert prove(made, pair(attend, statement.format("teams"), "exec")) == []
    (found,) = prove(made, pair(attend, statement.format("teems"), "exec"))
    assert (found.kind, found.line, found.found) == ("sql", 1, 'relation "teems" does not exist')


# Columns that may be null, for each statement: n for those that may, - for those that may not.
NULLABILITY = [
    ("-n", "select name, motto from teams"),
    ("-n", "select m.id, t.name from members m left join teams t on t.id = m.team_id"),
    ("n-", "select m.id, t.name from members m right join teams t on t.id = m.team_id"),
    ("nn", "select m.id, t.name from members m full join teams t on t.id = m.team_id"),
    ("--", "select m.id, t.name from members m join teams t on t.id = m.team_id"),
    ("n", "select b.name from teams a left join (teams b join members m on m.team_id = b.id) on true"),
    ("--", "select coalesce(motto, name), coalesce(motto, '') from teams"),
    ("n", "select coalesce(motto, null) from teams"),
    ("-nnn", "select count(*), sum(rank), min(email), array_agg(email) from members"),
    ("--n", "select team_id is null, min(email), min(born) from members group by team_id"),
    ("n-", "select team_id, count(*) from members group by team_id"),
    ("n", "select sum(rank) filter (where rank > 1) from members group by email"),
    ("-n", "with t as (select name, motto from teams) select name, motto from t"),
    ("-", "with t as (select motto from teams) select coalesce(motto, '') from t"),
    ("n", "select name from teams union all select motto from teams"),
    ("-", "select name from teams intersect select motto from teams"),
    ("-", "select name from teams except select motto from teams"),
    ("-", "with recursive r as (select 1 as n union all select n + 1 from r where n < 5) select n from r"),
    ("n", "with recursive r as (select 1 as n union all select null from r) select n from r"),
    ("--", "insert into teams (name, motto) values ('a', 'b') returning id, motto"),
    ("-n", "update members set rank = rank + 1 returning email, born"),
    ("-", "delete from members returning email"),
    ("-", "with gone as (delete from members returning email) select email from gone"),
    ("-n", "select case when rank > 1 then email else '' end, case when rank > 1 then email end from members"),
    ("-n", "select email || 'x', email || born::text from members"),
    ("nn", "select notes -> 'a', notes ->> 'a' from members"),
    ("-n", "select rank::text, born::text from members"),
    ("-n-", "select lower(email), (select motto from teams limit 1), exists (select from teams)"
            " from members"),
    ("-", "select (select count(*) from teams)"),
    ("n", "select (select name from teams where id = 1)"),
    ("--", "select row_number() over (), rank() over (order by email) from members"),
    ("n", "select lag(email) over (order by id) from members"),
    ("--", "select now(), current_date"),
    ("-", "select motto from teams where motto is not null"),
    ("-", "select motto from teams where motto = 'x'"),
    ("n", "select motto from teams where motto = 'x' or name = 'y'"),
    ("-", "select array(select motto from teams)"),
    ("-n", "select greatest(motto, name), nullif(name, 'x') from teams"),
    ("n-", "values (null::text, 1), ('a', 2)"),
    ("-", "select distinct email from members"),
    ("-", "select x.email from (select email from members limit 3) x"),
    ("n", "select x.born from members m cross join lateral (select m.born) x"),
    ("-", "select born is not distinct from seen::date from members"),
    ("nn", "select email, count(email) * null from members group by grouping sets ((email), ())"),
    ("nn", "select notes::int, (notes -> 'a')::bool from members"),
    ("-n", "insert into teams (name) values ('a') returning new.id, old.id"),
    ("--", "update teams set name = 'x' returning new.id, old.name"),
    ("n-", "delete from teams returning new.id, old.name"),
    ("nn", "merge into teams t using members m on m.team_id = t.id when matched then delete returning old.id, new.id"),
    ("n-", "update teams set motto = null where motto = 'a' returning motto, old.motto"),
    ("n", "select (select count(*) from teams having count(*) > 1)"),
    ("n", "select (select count(*) from teams offset 1)"),
    ("n", "select (select count(*) from teams limit 0)"),
    ("-", "select (select count(*) from teams limit 1)"),
    ("-", "select (select max(1) from teams group by ()) is null"),
    ("nnn", "select a, b, c from halves"),
    ("n-", "select a, b from parents"),
    ("nnn", "with recursive r as (select name as a, name as b, motto as c from teams union all"
            " select b, c, a from r) select a, b, c from r"),
    ("--n", "with recursive r as (select name as a, name as b, motto as c from teams union all"
            " select b, a, c from r) select a, b, c from r"),
    ("-n", "select name, motto from team_names"),
    ("-nn", "select code, maybe, sure from domains"),
    ("-n", "select name, code from outer_domains"),
    ("nn-", "select concat(variadic labels || null::text[]), jsonb_build_array(variadic null::text[]), concat(null)"
            " from members left join teams on false"),
    ("--", "select rank in (1, 2), rank = any (array[1, 2]) from members"),
    ("nnn", "select rank in (1, null), born = any ('{2026-01-01}'), name = any (array_agg(motto)) from members, teams"
            " group by rank, born, name"),
    ("-n", "select name in (select name from teams), name in (select motto from teams) from teams"),
    ("-n", "select lag(name, 1, '') over (order by id), lag(motto, 1, '') over (order by id) from teams"),
    ("--", "select n, o from generate_series(1, 3) with ordinality as s (n, o)"),
    ("--", "select sqrt(rank), split_part(email, '@', 2) from members"),
    ("-", "select (select count(*) + m.rank from teams) from members m"),
    ("-", "select (select max(m.rank)) from members m group by m.id"),
    ("n", "select regexp_match(email, 'x') from members"),
    ("nn", "select substring(email from 'x'), to_char(seen, 'YYYY') from members"),
    ("n", "select extract(day from seen) from members"),
    ("n", "select '((0,0),(1,1))'::path + '((0,0),(1,1))'::path"),
    ("-n--", "select concat(motto), array_remove(null::int[], 1), array_append(null, motto), array_remove(labels, null)"
             " from teams, members"),
]  # fmt: skip


def test_nullability_is_what_postgresql_can_give(made: DatabaseUrl) -> None:
    async def run() -> list[tuple[str, str]]:
        connection = await connect(make_config(made))
        schema = await read_schema(connection)
        wrong = []
        for expected, statement in NULLABILITY:
            query, signature = pair(rows, statement)
            statement_ = await connection.prepare(query.sql)
            scope = await Proof(connection, schema, query, signature)._analyse(statement_)
            columns = range(len(statement_.get_attributes()))
            found = "".join("n" if schema.nulls.of_column(scope, index) else "-" for index in columns)
            if found != expected:
                wrong.append((statement, f"{expected} became {found}"))
        await connection.close()
        return wrong

    assert asyncio.run(run()) == []


SINGLE = [
    (True, "select 1"),
    (True, "select id from teams where id = :id"),
    (True, "select id from teams where id = 7 and name > 'a'"),
    (True, "select id from teams limit 1"),
    (True, "select count(*) from teams"),
    (True, "insert into teams (name) values ('a') returning id"),
    (True, "update teams set motto = null where id = :id returning id"),
    (True, "delete from members where team_id = :id and email = 'x' returning id"),
    (True, "select m.id from members m join teams t on t.id = m.team_id where m.id = :id"),
    (True, "select m.id from members m left join teams t on t.id = m.team_id where m.id = :id"),
    (True, "with t as (select id from teams where id = :id) select id from t"),
    (True, "select id from (select id from teams where id = :id) x"),
    (True, "with t as (insert into teams (name) values ('a') returning id) select id from t"),
    (True, "insert into teams (name) select name from teams where id = :id returning id"),
    (False, "select id from teams"),
    (False, "select id from teams where id > :id"),
    (False, "select id from teams where id = :id or name = 'x'"),
    (False, "select id from members where email = 'x'"),
    (False, "select id from members where team_id = :id"),
    (False, "select m.id from members m join teams t on t.id = m.team_id where t.id = :id"),
    (False, "select m.id from members m left join teams t on t.id = m.team_id and m.id = :id"),
    (False, "select id from teams where id = any(array[1, 2])"),
    (False, "select id from teams where id in (1, 2)"),
    (False, "select count(*) from members group by team_id"),
    (False, "select id from teams limit 2"),
    (False, "select id from teams limit :id"),
    (False, "insert into teams (name) values ('a'), ('b') returning id"),
    (False, "insert into teams (name) select name from teams returning id"),
    (False, "select id from teams where id = 1 union all select 2"),
    (False, "select generate_series(1, 3)"),
    (False, "select a.id from teams a, teams b where a.id = :id"),
    (False, "select id from teams where id = (select max(team_id) from members where members.id = teams.id)"),
    (False, "update teams set motto = null where name > 'a' returning id"),
    (False, "select id from teams where id = :id group by rollup (id)"),
    (False, "select count(*) from teams where id = :id group by grouping sets ((id), ())"),
    (False, "select id from teams limit length('a')"),
    (False, "select id from teams limit abs(1)"),
    (True, "select id from teams limit 1::smallint"),
    (True, "select id from teams fetch first row only"),
    (False, "select id from teams order by id fetch first row with ties"),
    (False, "select t.id from teams t, lateral (select t.id as x limit 1) l where t.id = l.x"),
    (False, "select t.id from teams t join lateral (select t.name as x) l on t.name = l.x"),
    (True, "select t.id from teams t, lateral (select t.id as x limit 1) l where t.id = :id"),
    (True, "select m.id from teams t, lateral (select id from members where team_id = t.id limit 1) m"
           " where t.id = :id"),
    (False, "select t.id from teams t where name = (:id::text collate unicode)"),
    (False, "select id from reserved where slot = :id"),
    (False, "merge into teams t using members m on m.team_id = t.id when matched then delete returning t.id"),
    (False, "merge into members m using teams t on m.team_id = t.id and t.id = :id"
            " when matched then delete returning m.id"),
    (False, "merge into members m using (select 1 as x) s on m.team_id = :id"
            " when matched then delete returning m.id"),
    (False, "merge into teams t using (select 1 as x) s on t.id = :id"
            " when matched then delete when not matched by source then delete returning t.id"),
    (True, "merge into teams t using (select 1 as x) s on t.id = :id"
           " when matched then delete returning t.id"),
    (True, "merge into teams t using (values ('a')) s (name) on t.name = s.name"
           " when matched then delete when not matched then insert (name) values (s.name) returning t.id"),
]  # fmt: skip

PRESENT = [
    (True, "select 1"),
    (True, "select count(*) from teams"),
    (True, "select count(*) from teams where id = :id"),
    (True, "insert into teams (name) values ('a') returning id"),
    (True, "insert into teams (name) values ('a') on conflict (name) do update set motto = 'x' returning id"),
    (True, "with t as (insert into teams (name) values ('a') returning id) select id from t"),
    (True, "insert into teams (name) select 'a' returning id"),
    (True, "select x from (select count(*) as x from teams) y"),
    (True, "select 1 from (select 1) x left join (select id from teams limit 1) t on true"),
    (True, "select id from teams where id = :id union all select 1 limit 1"),
    (True, "select 1 from (values (1)) x"),
    (True, "select count(*) from teams limit 1"),
    (True, "select x from abs(:id::bigint) x"),
    (False, "select id from teams where id = :id"),
    (False, "select id from teams limit 1"),
    (False, "select count(*) from teams having count(*) > 1"),
    (False, "select count(*) from teams limit 0"),
    (False, "select count(*) from teams offset 1"),
    (False, "select count(*) from teams limit :id"),
    (False, "select count(*) from teams where id = :id group by id"),
    (False, "insert into teams (name) values ('a') on conflict do nothing returning id"),
    (False, "insert into teams (name) values ('a') on conflict (name) do update set motto = 'x'"
            " where teams.motto is null returning id"),
    (False, "insert into teams (name) select name from teams where id = :id returning id"),
    (False, "update teams set motto = 'x' where id = :id returning id"),
    (False, "delete from teams where id = :id returning id"),
    (False, "merge into teams t using (select 1 as x) s on t.id = :id when matched then delete returning t.id"),
    (False, "select 1 where :id = 1"),
    (False, "select 1 from (select 1) x join (select 1 as y) z on y = :id"),
    (False, "select 1 from (select 1) x right join (select id from teams limit 1) t on true"),
    (False, "select count(*) from teams intersect select 1 limit 1"),
    (False, "select count(*) from teams except select 1 limit 1"),
    (False, "with recursive r as (select id from teams where id = :id union all select id from r) select id from r limit 1"),
    (False, "select 1 from (select count(*) from teams) x where :id = 1"),
    (False, "select generate_series(1, :id::int) limit 1"),
]  # fmt: skip


def test_a_result_that_is_never_none_is_proven_to_be_there(made: DatabaseUrl) -> None:
    async def with_id(self: object, *, id: int) -> int: ...
    async def without(self: object) -> int: ...
    async def with_none(self: object) -> int | None: ...

    pairs = [pair(with_id if ":id" in statement else without, statement, "one") for _, statement in PRESENT]
    found = [{finding.found for finding in found} for found in prove_each(made, pairs)]
    unproven = [s for (_, s), texts in zip(PRESENT, found, strict=True) if "no row perhaps" in texts]
    assert unproven == [statement for present, statement in PRESENT if not present]
    assert prove(made, pair(with_none, "select id from teams limit 1", "one")) == []


def test_a_mark_says_that_there_is_a_row_and_no_mark_where_it_shows(made: DatabaseUrl) -> None:
    async def always(self: object) -> int: ...

    mark = "-- @always\n"
    assert prove(made, pair(always, "select id from teams limit 1", "one", mark)) == []
    (found,) = prove(made, pair(always, "select 1", "one", mark))
    assert (found.kind, found.warning) == ("annotation", True)


# Arrays, for each statement: h for those that may hold a null, - for those that do not.
ELEMENTS = [
    ("h", "select labels from members"),
    ("-", "select array_remove(labels, null) from members"),
    ("h", "select array_remove(labels, 'x') from members"),
    ("-h", "select array_agg(name), array_agg(motto) from teams"),
    ("-h", "select array_agg(a.name order by a.id), array_agg(t.name) from teams a left join teams t using (id) group by a.id"),
    ("-", "select array_agg(motto) from teams where motto is not null"),
    ("-h", "select array(select name from teams), array(select motto from teams)"),
    ("-h", "select array[1, 2], array[1, null]"),
    ("-h", "select '{a,b}'::text[], '{a,null}'::text[]"),
    ("-h", "select array[name], array[motto, name] from teams"),
    ("-h", "select coalesce(array_agg(name), '{}'), coalesce(array_agg(name), '{null}') from teams"),
    ("h", "select case when count(*) > 1 then array_agg(name) else array_agg(motto) end from teams"),
    ("-h", "select x, y from (select array_agg(name) as x, array_agg(motto) as y from teams) z"),
    ("h", "select array_agg(name) from teams union all select array_agg(motto) from teams"),
    ("h", "select array_agg(notes)::int[] from members"),
    ("-", "select array_agg(rank)::bigint[] from members"),
    ("-", "select string_to_array(name, ',') from teams"),
    ("h", "select string_to_array(name, ',', 'x') from teams"),
    ("h", "select array_append(array[name], motto) from teams"),
    ("h", "select name::text[] from teams"),
]  # fmt: skip


def test_arrays_hold_a_null_where_postgresql_can_put_one(made: DatabaseUrl) -> None:
    async def run() -> list[tuple[str, str]]:
        connection = await connect(make_config(made))
        schema, wrong = await read_schema(connection), []
        for expected, statement in ELEMENTS:
            proof = Proof(connection, schema, *pair(rows, statement))
            scope = await proof._analyse(await connection.prepare(proof.query.sql))
            columns = range(len(scope.targets))
            found = "".join("h" if schema.nulls.in_column(scope, index) else "-" for index in columns)
            if found != expected:
                wrong.append((statement, f"{expected} became {found}"))
        await connection.close()
        return wrong

    assert asyncio.run(run()) == []


def test_a_list_says_that_it_may_hold_none(made: DatabaseUrl) -> None:
    async def whole(self: object) -> list[list[str]]: ...
    async def holed(self: object) -> list[list[str | None]]: ...
    async def given(self: object, *, names: list[str]) -> list[list[str]]: ...
    async def given_holes(self: object, *, names: list[str | None]) -> list[list[str]]: ...

    statement = "select labels from members"
    (found,) = prove(made, pair(whole, statement))
    assert (found.kind, found.found) == ("nullability", "labels may hold a null")
    assert prove(made, pair(holed, statement)) == []
    assert prove(made, pair(whole, statement, annotations="-- @not_null: labels[]\n")) == []
    assert prove(made, pair(given, "select :names::text[] as names")) == []
    assert [f.kind for f in prove(made, pair(given_holes, "select :names::text[] as names"))] == [
        "nullability"
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "select array_agg(labels) from members",
        "select array(select labels from members)",
        "select array[labels, labels] from members",
        "select x from (select array_agg(labels) as x from members) y",
        "select coalesce(array_agg(labels), '{}') from members",
    ],
)
def test_an_array_of_arrays_is_no_list_of_values(made: DatabaseUrl, statement: str) -> None:
    async def lists(self: object) -> list[list[str | None] | None]: ...

    assert "an array of arrays" in {finding.found for finding in prove(made, pair(lists, statement))}


def test_one_row_is_proven_by_a_key_a_limit_or_an_aggregate(made: DatabaseUrl) -> None:
    async def with_id(self: object, *, id: int) -> int | None: ...
    async def without(self: object) -> int | None: ...

    pairs = [pair(with_id if ":id" in statement else without, statement, "one") for _, statement in SINGLE]
    found = [{finding.kind for finding in found} for found in prove_each(made, pairs)]
    unproven = [s for (_, s), kinds in zip(SINGLE, found, strict=True) if "cardinality" in kinds]
    assert unproven == [statement for single, statement in SINGLE if not single]


Small = Annotated[int, Meta(ge=0, le=100)]
Naive = Annotated[datetime, Meta(tz=False)]

FITTING = [
    (int, "id", True), (int, "rank", False), (Small, "rank", True), (str, "rank", False), (str, "email", True),
    (bytes, "email", False), (Literal["glad", "sad"], "mood", True), (Literal["glad", "mad"], "mood", False),
    (str, "mood", False), (Naive, "seen", True), (datetime, "seen", False), (Decimal, "paid", True),
    (float, "paid", False), (UUID, "tag", True), (str, "tag", False), (list[str], "labels", True),
    (list[int], "labels", False), (str, "labels", False), (JsonObject, "notes", True), (str, "notes", False),
    (bool, "rank", False),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "column", "fitting"), FITTING)
def test_a_parameter_must_fit_its_place(made: DatabaseUrl, type_: Any, column: str, fitting: bool) -> None:
    async def list_members(self: object, *, value: type_) -> list[int]: ...

    found = prove(made, pair(list_members, f"select id from members where {column} = :value"))
    assert ([f.kind for f in found] == []) is fitting


RESULTS = [
    (int, "rank", True), (str, "rank", False), (Literal["glad", "sad", "mad"], "mood", True),
    (Literal["glad"], "mood", False), (str, "mood", True), (datetime, "now()", True), (Naive, "now()", False),
    (Naive, "localtimestamp", True), (Raw, "notes", True), (str, "notes", False), (list[str], "array_remove(labels, null)", True),
    (Decimal, "paid", True), (float, "paid", False),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "expression", "fitting"), RESULTS)
def test_a_column_must_fit_its_field(made: DatabaseUrl, type_: Any, expression: str, fitting: bool) -> None:
    async def list_members(self: object) -> list[type_]: ...

    found = prove(made, pair(list_members, f"select {expression} as value from members"))
    assert ([f.kind for f in found] == []) is fitting
