"""Secrets are followed from the column that is marked to every way out, and nothing else is suspected."""

import ast
import re
from collections.abc import Callable, Iterator

import pytest
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.check.command import find_exposed
from svc.check.findings import Finding
from svc.check.source import PACKAGE, check_revealing
from svc.database_url import DatabaseUrl
from svc.http.operations import Operation
from svc.http.resource import Resource
from svc.postgres.secret import Secret
from tests.support.proofs import having, pair, prove, prove_each

SCHEMA = """
create table people (
    id bigint generated always as identity primary key,
    name text not null,
    hash text not null,
    token bytea unique,
    profile text,
    parent bigint references people (id),
    hint text generated always as (left(hash, 2)) stored,
    initial text generated always as (left(name, 1)) stored,
    unique (name)
);
comment on column people.hash is 'secret';
comment on column people.token is 'secret';
create table posts (id bigint primary key, person_id bigint references people (id), title text, body jsonb);
create table backups (id bigint primary key, person people, people people[], note text);

create table former_people () inherits (people);
create table events (id bigint, kind text, detail text) partition by list (kind);
create table logins partition of events for values in ('login');
comment on column logins.detail is 'secret';
create table visits partition of events for values in ('visit');

create type card as (holder text, number text);
comment on column card.number is 'secret';
create table payments (id bigint primary key, card card);

create view labels as select id, name, hash as label from people;
create view labels_of_labels as select label as x, name as y from labels;
create view strong_people as select id, name from people where length(hash) > 90;
create view plain_people as select id, name from people;
create materialized view kept_labels as select id, md5(hash) as label from people;

create function hash_of(wanted bigint) returns text language sql as 'select hash from people where id = wanted';
create function name_of(wanted bigint) returns text language sql as 'select name from people where id = wanted';
create function hash_of_atomic(wanted bigint) returns text language sql
    begin atomic select p.hash from people p where p.id = wanted; end;
create function is_strong(wanted bigint) returns boolean language sql
    return exists (select from people where id = wanted and hash like '$argon2id%');
create function all_people() returns setof people language sql as 'select * from people';
create function find_hash(wanted bigint) returns text language plpgsql
    as $$ begin return (select hash from people where id = wanted); end $$;
create function find_label(wanted bigint) returns text language plpgsql
    as $$ begin return (select label from "labels" where id = wanted); end $$;
create function through_another(wanted bigint) returns text language plpgsql
    as $$ begin return find_hash(wanted); end $$;
create function run_it(command text) returns text language plpgsql
    as $$ declare found text; begin execute command into found; return found; end $$;
create function around() returns table (id bigint, name text) language sql as 'select id, name from people';
create or replace function around() returns table (id bigint, name text) language sql
    as $$ select a.id, p.name from around() a join people p on p.id = a.id where p.hash > 'b' $$;
create function add_one(n bigint) returns bigint language plpgsql as $$ begin return n + 1; end $$;
create function step(state text, n bigint) returns text language plpgsql
    as $$ begin return state || hash_of(n); end $$;
create aggregate every_hash (bigint) (sfunc = step, stype = text, initcond = '');
create function same(a bigint, b bigint) returns boolean language sql as 'select hash_of(a) = hash_of(b)';
create table sessions (id bigint primary key, token bytea references people (token), label text default hash_of(1));
create operator === (leftarg = bigint, rightarg = bigint, function = same);
"""


@pytest.fixture(scope="module")
def made(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[DatabaseUrl]:
    """A database in which some columns are secret."""
    with having(server_url, admin, SCHEMA) as url:
        yield url


async def take(self: object) -> list[int]: ...
async def take_by(self: object, *, given: str) -> list[int]: ...
async def take_by_all(self: object, *, given: list[str]) -> list[int]: ...


def find_leaks(url: DatabaseUrl, statements: list[str], annotations: str = "") -> list[list[str]]:
    """What is found of each statement that has to do with secrets."""
    methods = [
        take_by_all if ":given::text[]" in statement else take_by if ":given" in statement else take
        for statement in statements
    ]
    pairs = [
        pair(method, statement, annotations=annotations)
        for method, statement in zip(methods, statements, strict=True)
    ]
    findings = prove_each(url, pairs)
    assert [f.found for found in findings for f in found if f.kind == "sql"] == []
    return [[f.found for f in found if f.kind == "secret"] for found in findings]


VALUES = """
select hash from people
select hash as name from people
select id, name, hash as display_name from people where id = 1
select upper(hash) from people
select hash || name from people
select case when hash like '$%' then 1 else 2 end from people
select hash is null from people
select coalesce(null, hash) from people
select array_agg(hash) from people
select string_agg(hash, ',') from people
select max(token) from people
select count(hash) from people
select count(distinct hash) from people
select count(*) filter (where hash > 'b') from people
select first_value(hash) over (order by id) from people
select people from people
select people::text from people
select row_to_json(people) from people
select to_jsonb(p) - 'id' from people p
select (p).hash from (select people as p from people) x
select row(p.id, p.hash) from people p
select x.* from people p, lateral (values (p.hash)) as x (v)
select jsonb_build_object('a', p.token) from people p
select (select hash from people limit 1)
select array(select hash from people)
select x.h from (select hash as h from people) x
with x as (select hash as h from people) select h from x
with x as materialized (select p from people p) select (x.p).hash from x
with recursive r as (select id, parent, hash from people union all select p.id, p.parent, r.hash from r join people p on p.id = r.parent) select hash from r
with recursive r as (select id, name as a, hash as b from people union all select id, b, a from r) select a from r
with recursive r as (select id, parent, hash from people union all select p.id, p.parent, p.hash from r join people p on p.id = r.parent) search depth first by hash set path select path from r
select name from people union all select hash from people
select name from people intersect all select hash from people
select a.hash from people a full join people b using (id)
select hash from people a full join people b using (id, hash)
select x from people p, json_table(to_json(p.hash), '$' columns (x text path '$')) j
select x from people p, jsonb_to_record(to_jsonb(p)) as r (x text)
select v from people p, jsonb_each_text(to_jsonb(p)) as e (k, v)
update people set name = 'x' returning hash
update people set name = 'x' returning old.hash
delete from people returning people
insert into people (name, hash) values ('a', 'b') returning hash
merge into people p using posts s on s.id = p.id when matched then update set name = 'x' returning p.hash
with gone as (delete from people returning hash) select hash from gone
select label from labels
select x from labels_of_labels
select label from kept_labels
select l from labels l
select hash_of(1)
select hash_of_atomic(1)
select is_strong(1)
select (all_people()).name, (all_people()).hash
select hash from all_people()
select find_hash(1)
select find_label(1)
select through_another(1)
select run_it('select 1')
select every_hash(id) from people
select id === 2 from posts
select query_to_xml('select 1', true, true, '')
select hint from people
select hash from former_people
select detail from events
select detail from logins
select person from backups
select (person).hash from backups
select (people[1]).token from backups
select (card).number from payments
select card from payments
select most_common_vals::text from pg_stats
select stavalues1::text from pg_statistic
select most_common_vals from pg_stats_ext
select token from sessions
select s from sessions s
insert into sessions (id) values (1) returning label
select array_agg(hash order by id) filter (where id > 1) from people group by name
select hash from people group by hash, name
select token from people group by grouping sets ((token), ())
select greatest(name, hash) from people
select nullif(hash, name) from people
select hash::bytea from people
select hash collate "C" from people
select encode(sha256(token), 'hex') from people
select generate_series(1, length(hash)) from people
select left(hash, 1) = :given from people
select hash > :given from people
""".strip().splitlines()  # fmt: skip


def test_no_secret_comes_out(made: DatabaseUrl) -> None:
    found = find_leaks(made, VALUES)
    assert [
        s for s, leaks in zip(VALUES, found, strict=True) if not re.search(" is made of ", str(leaks))
    ] == []


WRITES = """
update people set name = hash
update people set name = upper(hash) where id = 1
update people set profile = to_jsonb(people)::text
update people set (name, profile) = (select hash, profile from people where id = 2)
update posts set title = p.hash from people p where p.id = person_id
insert into posts (id, title) select id, hash from people
insert into posts (id, body) select id, row_to_json(p)::jsonb from people p
insert into people (name, hash) values ('a', 'b') on conflict (name) do update set name = excluded.hash
insert into posts (id, title) values (1, (select hash from people limit 1))
insert into posts (id, title) values (1, hash_of(1)), (2, 'x')
with x as (insert into posts (id, title) select id, hash from people returning id) select id from x
with x as (select hash as h from people) insert into posts (id, title) select 1, h from x
merge into posts s using people p on p.id = s.id when matched then update set title = p.hash
merge into posts s using people p on p.id = s.id when not matched then insert (id, title) values (p.id, p.hash)
insert into backups (id, note) select id, hint from people
insert into plain_people (name) select hash from people
""".strip().splitlines()


def test_no_secret_is_written_where_all_can_read_it(made: DatabaseUrl) -> None:
    found = find_leaks(made, WRITES)
    unseen = [
        s for s, leaks in zip(WRITES, found, strict=True) if "is no secret, is set to" not in str(leaks)
    ]
    assert unseen == []


ORACLES = """
select id from people where hash like 'a%'
select id from people where hash > :given
select id from people where hash <> :given
select id from people where hash is null
select id from people where left(hash, 1) = :given
select id from people where hash in (select title from posts)
select id from people where hash = name
select p.id from people p join posts on posts.title = p.hash
select id from people where exists (select from people q where q.hash = people.hash and q.id <> people.id)
select id from people order by hash
select id from people order by length(hash), id
select name from people group by name, hash
select name from people group by name having max(hash) > 'b'
select distinct on (hash) id from people
select row_number() over (order by hash) from people
select count(*) over (partition by hash) from people
select id from people limit (select length(hash) from people where id = 1)
select id from people offset (select length(hash) from people where id = 1)
select p.id from people p, generate_series(1, length(p.hash))
select p.id from people p left join posts on true and p.hash > 'b'
with x as (select left(hash, 1) as h from people) select 1 from x where h = :given
select 1 from (select hash || '' as h from people) x where h = :given
select (select count(*) from people where hash > 'b')
select exists (select from people where hash > 'b')
delete from people where hash > 'b'
update people set name = 'x' where hash > 'b'
merge into people p using posts s on s.title = p.hash when matched then delete
merge into people p using posts s on s.id = p.id when matched and p.hash > 'b' then delete
insert into people (name, hash) values ('a', 'b') on conflict (name) do update set name = 'c' where people.hash > 'b'
select id from strong_people
select count(*) from strong_people
select 1 from labels where label > :given
select count(*) from (select distinct hash from people) x
select count(*) from (select hash from people union select name from people) x
select count(*) from (select hash from people intersect select name from people) x
select id from people where is_strong(id)
select id from around()
select id from people where hint = 'ab' and id = 1 or hint like 'a%'
select id from events where detail > 'b'
""".strip().splitlines()


def test_no_secret_decides_what_comes(made: DatabaseUrl) -> None:
    found = find_leaks(made, ORACLES)
    assert [s for s, leaks in zip(ORACLES, found, strict=True) if "rows are chosen" not in str(leaks)] == []


SILENT = """
select id, name from people
select id from people where hash = :given
select id from people where :given = hash
select id from people where token = convert_to(:given, 'UTF8')
select id from people where hash = any(:given::text[])
select id from people where hash in ('a', 'b')
select exists (select from people where hash = :given)
select hash = :given as same from people
select case when hash = 'x' then 1 else 2 end from people
select id from labels where label = :given
with x as (select id, hash as h from people) select id from x where h = :given
select count(*) from people
select count(p) from people p
select id from people full join posts using (id)
select a.id, count(*) from people a full join posts b using (id) group by a.id, b.title
select name, parent from people group by name, parent
select ctid, tableoid::regclass, xmin from people
select id from people where ctid = '(0,1)'
insert into people (name, hash) values ('a', :given) returning id, name
insert into people (name, hash) values ('a', :given) on conflict (name) do update set hash = excluded.hash returning id
insert into people (name, hash) values ('a', :given) on conflict (token) do nothing returning id
update people set hash = :given returning id
update people set hash = hash || 'x' returning id
insert into former_people (name, hash) select name, hash from people returning name
merge into people p using posts s on s.id = p.id when matched then update set hash = s.title returning p.id
select name from labels
select y from labels_of_labels
select id from kept_labels
select name from plain_people
select name_of(1)
select name from all_people()
select add_one(1)
select initial from people
select kind from events
select (person).name from backups
select (card).holder from payments
select id from payments
select id from sessions where token = convert_to(:given, 'UTF8')
explain select hash from people
select null_frac from pg_stats
select relname from pg_class
select table_name from information_schema.tables
select last_value from people_id_seq
select now(), gen_random_uuid(), md5(:given)
with recursive r as (select id, parent, hash from people union all select p.id, p.parent, p.hash from r join people p on p.id = r.parent) search depth first by id set path select id, path from r
with recursive r as (select id, parent from people union all select p.id, p.parent from r join people p on p.id = r.parent) cycle id set looped using path select id, looped, path from r
""".strip().splitlines()  # fmt: skip


def test_what_has_no_secret_is_not_suspected(made: DatabaseUrl) -> None:
    found = find_leaks(made, SILENT)
    assert [(s, leaks) for s, leaks in zip(SILENT, found, strict=True) if leaks] == []


class Hidden(Struct):
    id: int
    hash: Secret[str]


class Bare(Struct):
    id: int
    hash: str


MARK = "-- @secret: hash: compared with what the owner brings\n"


def find_kinds(
    url: DatabaseUrl, row: type, statement: str, annotations: str, kind: str = "many"
) -> list[str]:
    """The kinds of what is found of a statement whose rows are structs."""

    async def take(self: object) -> list[row]: ...  # type: ignore[valid-type]

    found: list[Finding] = prove(url, pair(take, statement, kind, annotations))
    return [finding.kind for finding in found]


def test_a_marked_secret_comes_as_a_secret(made: DatabaseUrl) -> None:
    statement = "select id, hash from people"
    assert find_kinds(made, Hidden, statement, MARK) == []
    assert find_kinds(made, Hidden, statement, MARK.replace("hash:", "people.hash:")) == []
    assert find_kinds(made, Bare, statement, MARK) == ["column"]
    assert find_kinds(made, Hidden, statement, "") == ["secret"]
    assert find_kinds(made, Hidden, statement, MARK.replace("hash:", "token:")) == ["secret", "annotation"]
    assert find_kinds(made, Hidden, "select id, name as hash from people", "") == ["column"]


def test_a_column_of_secrets_comes_as_secrets(made: DatabaseUrl) -> None:
    statement = (
        "select coalesce(array_agg(id), '{}') as id, coalesce(array_agg(hash), '{}') as hash from people"
    )
    assert find_kinds(made, Hidden, statement, MARK, "columns") == []
    assert find_kinds(made, Bare, statement, MARK, "columns") == ["column"]


@pytest.mark.parametrize(
    "mark", ["-- @secret\n", "-- @secret: hash\n", "-- @secret: hash:\n", "-- @secret: hash:  \n"]
)
def test_a_mark_says_why(made: DatabaseUrl, mark: str) -> None:
    assert find_kinds(made, Hidden, "select id, hash from people", mark) == ["secret", "annotation"]


def test_a_mark_that_marks_nothing_is_told(made: DatabaseUrl) -> None:
    assert find_kinds(made, Bare, "select id, name as hash from people", MARK) == ["annotation"]


def test_a_marked_secret_may_decide(made: DatabaseUrl) -> None:
    assert find_leaks(made, ["select id from people where hash > :given order by hash"], MARK) == [[]]


def test_a_mark_lets_no_secret_be_written_down(made: DatabaseUrl) -> None:
    assert find_leaks(made, ["update people set name = hash"], MARK) != [[]]


@pytest.mark.parametrize(
    "text",
    [
        "from svc.postgres.secret import reveal",
        "from svc.postgres.secret import Secret, reveal as show",
        "from svc.postgres.secret import *",
        "from svc.postgres import secret",
        "import svc.postgres.secret",
        "x = found._Secret__value",
        "x = getattr(found, '_Secret__value')",
        "x = importlib.import_module('svc.postgres.secret')",
        "x = sys.modules['svc.postgres.secret'].reveal",
    ],
)
def test_one_module_alone_reveals_secrets(text: str) -> None:
    def look(file: str) -> list[str]:
        found = check_revealing(PACKAGE / file, [*ast.walk(ast.parse(text))], "svc.users.passwords")
        return [finding.expected for finding in found]

    assert look("users/handlers.py") == ["what is secret revealed in svc.users.passwords alone"]
    assert look("users/passwords.py") == []


def test_what_holds_a_secret_may_name_its_type() -> None:
    nodes = [*ast.walk(ast.parse("from svc.postgres.secret import Secret\nx = found.value"))]
    assert [*check_revealing(PACKAGE / "users/handlers.py", nodes, "")] == []


class Around(Struct):
    inner: list[Hidden]


async def handle(request: Request) -> Response:
    raise NotImplementedError


@pytest.mark.parametrize("answered", [Hidden, list[Hidden], Around, Hidden | None])
def test_no_answer_holds_a_secret(answered: type) -> None:
    operations = [
        Operation("GET", "/", handle, {200: answered}),
        Operation("GET", "/bare", handle, {200: Bare}),
    ]
    assert [finding.found for finding in find_exposed([Resource(operations=operations)])] == ["Hidden.hash"]
