"""queries/proven.json beside the live schema: what drifted is told by the names of the queries that it breaks."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from svc.check.drift import Difference, Watch, widens
from svc.check.scratch import ScratchConnection as Connection
from svc.check.scratch import connect
from svc.database_url import DatabaseUrl
from svc.postgres.catalog import CatalogQueries
from svc.postgres.proven import read_written
from svc.postgres.queries import Row
from svc.postgres.statements import Query
from tests.support import QUERIES, make_config, problem

Sql = Callable[..., list[tuple[Any, ...]]]


class Recorder:
    """Runs queries on a connection and keeps their names."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.names: list[str] = []

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        self.names.append(query.name)
        return await self.connection.fetch_one(query, arguments)

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        self.names.append(query.name)
        return await self.connection.fetch_all(query, arguments)

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        self.names.append(query.name)
        return await self.connection.change(query, arguments)


def look(url: DatabaseUrl, statement: str = "select") -> tuple[list[Difference], list[str]]:
    """What a change makes drift, and which queries were asked to find it; then it is undone."""

    async def run() -> tuple[list[Difference], list[str]]:
        connection = await connect(make_config(url))
        try:
            await connection.execute(f"begin; {statement}")
            recorder = Recorder(connection)
            return await Watch(CatalogQueries.bind(recorder)).look(), recorder.names
        finally:
            await connection.close()

    return asyncio.run(run())


def gather(differences: Sequence[Difference], *, breaks: bool) -> dict[str, str]:
    """What is said of each query that breaks, or of each that does not."""
    return {
        query: ", ".join(each.said for each in differences if each.query == query and each.breaks == breaks)
        for query in {each.query for each in differences if each.breaks == breaks}
    }


def test_the_migrated_schema_is_the_one_that_was_proven(database_url: DatabaseUrl) -> None:
    drift, asked = look(database_url)
    assert drift == []
    assert len(asked) == 3, "it is asked at each start, so it must stay cheap"


def test_a_look_leaves_the_session_as_it_was(database_url: DatabaseUrl) -> None:
    async def run() -> None:
        connection = await connect(make_config(database_url))
        try:
            for values in (("Asia/Tokyo", "SQL, DMY", "escape", "on"), ("UTC", "ISO, MDY", "hex", "off")):
                for name, value in zip(SETTINGS, values, strict=True):
                    await connection.execute(f"set {name} = {value if ',' in value else repr(value)}")
                assert await Watch(CatalogQueries.bind(connection)).look() == []
                assert (
                    await connection.fetchrow(f"select {', '.join(map(CURRENT.format, SETTINGS))}") == values
                )
        finally:
            await connection.close()

    asyncio.run(run())


SETTINGS = ("timezone", "datestyle", "bytea_output", "quote_all_identifiers")
CURRENT = "current_setting('{}')"


def test_every_query_was_proven_and_nothing_else() -> None:
    assert read_written().queries.keys() == {
        query.name for queries in QUERIES for query, _ in queries.pairs()
    }


KEYS, RETRIES = "alter table api_keys", "alter table idempotency_keys"
CREATING = {"create_user", "create_user_once", "create_users", "import_users"} & read_written().queries.keys()
"""What makes users; the import may have been deleted."""

OTHERS = {
    name
    for name, each in read_written().queries.items()
    if {*each.reads, *each.inserts} - {"users", "api_keys", "idempotency_keys", "migration_checksums"}
}
"""Queries of tables that are not ours, as the copy has that follows docs/your-own-table.md."""
CHANGING = CREATING | {"update_user"}
READERS = {
    name
    for name, footprint in read_written().queries.items()
    if "function to_utc(timestamp with time zone)" in footprint.names
}
UPDATE_POLICY = "create policy mine on users using (id = 1); alter table users enable row level security"
TRIGGER = "create function f() returns trigger language plpgsql as 'begin return new; end'; create trigger t "

# What is done, whom it breaks, and what is said of each.
BREAKING = [
    ("rename a column", f"{KEYS} rename expires_at to ends_at",
     {"create_api_key", "get_api_key", "list_api_keys"}, "there is no api_keys.expires_at"),
    ("rename a table", "alter table idempotency_keys rename to retries",
     {"create_user_once", "get_first_answer", "delete_user", "forget_answer"}, "there is no idempotency_keys."),
    ("move a table", "create schema other; alter table idempotency_keys set schema other",
     {"create_user_once", "get_first_answer", "delete_user", "forget_answer"}, "there is no idempotency_keys."),
    ("drop a column", f"{RETRIES} drop body_hash",
     {"create_user_once", "get_first_answer"}, "there is no idempotency_keys.body_hash"),
    ("change a type", f"{KEYS} alter name type varchar(200)", {"create_api_key", "list_api_keys"},
     "api_keys.name is character varying(200) not null, proven as text not null"),
    ("change what an implicit cast hides", f"{RETRIES} alter created_at type timestamp",
     {"create_user_once", "get_first_answer", "forget_answer"}, "created_at is timestamp without time zone not null, proven as"),
    ("change a precision", f"{RETRIES} alter created_at type timestamptz(0)",
     {"create_user_once", "get_first_answer", "forget_answer"}, "created_at is timestamp(0) with time zone not null, proven as"),
    ("change a collation", f'{RETRIES} alter email type text collate "default"',
     {"create_user_once", "get_first_answer"}, 'email is text not null, proven as text collate "C" not null'),
    ("drop a not null", f"{KEYS} alter created_at drop not null", {"list_api_keys"},
     "api_keys.created_at is timestamp with time zone, proven as timestamp with time zone not null"),
    ("add a not null", f"{RETRIES} alter display_name set not null", {"create_user_once"},
     "idempotency_keys.display_name is text not null, proven as text"),
    ("drop a unique key", f"{KEYS} drop constraint api_keys_key_hash_key",
     {"get_api_key"}, "there is no unique key on api_keys (key_hash)"),
    ("drop a primary key", "alter table users drop constraint users_pkey cascade",
     {"get_user", "update_user"}, "there is no unique key on users (id)"),
    ("drop a key of on conflict", "alter table users drop constraint users_email_key",
     {"get_user_by_email", *(CREATING - {"create_user"})}, "there is no unique key on users (email)"),
    ("defer a key of on conflict", "alter table users drop constraint users_email_key,"
     "add constraint users_email_key unique (email) deferrable",
     {"get_user_by_email", *(CREATING - {"create_user"})}, "there is no unique key on users (email)"),
    ("bound a unique key", f"{KEYS} drop constraint api_keys_key_hash_key;"
     "create unique index on api_keys (key_hash) where revoked_at is null",
     {"get_api_key"}, "there is no unique key on api_keys (key_hash)"),
    ("widen a unique key", f"{KEYS} drop constraint api_keys_key_hash_key, add unique (key_hash, name)",
     {"get_api_key"}, "there is no unique key on api_keys (key_hash)"),
    ("ask for a new value", "alter table users add note text not null", CREATING, "users.note needs a value"),
    ("ask for a value", "alter table users alter version drop default", CREATING, "users.version needs a value"),
    ("ask for a number", "alter table users alter id drop identity", CREATING, "users.id needs a value"),
    ("change a default that comes out", "alter table users alter is_active set default false",
     CREATING - {"import_users"}, "default of users.is_active is false, proven as true"),
    ("change a function", "create or replace function to_utc(moment timestamptz) returns timestamp language sql "
     "immutable parallel safe return moment at time zone 'UTC'", READERS, "function to_utc(timestamp with time zone) is"),
    ("change a text of a function", "create or replace function jsonb_merge_patch(target jsonb, patch jsonb) "
     "returns jsonb language sql immutable parallel safe as 'select patch'", {"update_user"}, "proven as sql immutable"),
    ("add rows of another table", "create table former_users () inherits (users)",
     {name for name, each in read_written().queries.items() if "users" in each.reads}, "children of users is new: former_users"),
    ("take a privilege away", "create role clerk; grant select, insert, update on all tables in schema public to clerk;"
     "set local role clerk", {"delete_user", "create_user_once", "forget_answer", "delete_checksum"}, "denial of delete on"),
    ("put a rule in the place of a statement", "create rule r as on delete to users do instead nothing",
     {"delete_user"}, "rule users.r is new: CREATE RULE r AS"),
]  # fmt: skip


def test_a_change_that_breaks_queries_names_exactly_these(database_url: DatabaseUrl) -> None:
    for what, statement, names, said in BREAKING:
        differences, asked = look(database_url, statement)
        drift = gather(differences, breaks=True)
        assert drift.keys() - OTHERS == names - OTHERS, what
        assert {name for name in names - OTHERS if said not in drift[name]} == set(), f"{what}: {drift}"
        assert len(asked) == 3, what


# What is done, for whom it matters, and what is said of each.
TELLING = [
    ("drop the index of references", "drop index users_referred_by_idx", {"delete_user"},
     "there is no index of users btree (referred_by)"),
    ("drop a hot index", "drop index users_created_at_id_idx",
     {"list_users_by_created_at", "list_users_by_created_at_desc"}, "there is no index of users btree (created_at, id)"),
    ("turn an index round", "drop index users_created_at_id_idx; create index on users (id, created_at)",
     {"list_users_by_created_at", "list_users_by_created_at_desc"}, "there is no index of users btree (created_at, id)"),
    ("change what a delete does", "alter table users drop constraint users_referred_by_fkey, add constraint "
     "users_referred_by_fkey foreign key (referred_by) references users (id) on delete cascade",
     {*CREATING, "delete_user"}, "(referred_by) REFERENCES users(id) ON DELETE CASCADE, proven as FOREIGN KEY"),
    ("defer a foreign key", "alter table users alter constraint users_referred_by_fkey deferrable",
     {*CREATING, "delete_user"}, "DEFERRABLE, proven as FOREIGN KEY"),
    ("leave a check unproven", "alter table users drop constraint users_profile_is_object, add constraint "
     "users_profile_is_object check (jsonb_typeof(profile) = 'object') not valid", CHANGING, "NOT VALID, proven as CHECK"),
    ("let a foreign key rest", "alter table users disable trigger all", {*CREATING, "delete_user"},
     "ON DELETE SET NULL\ndisabled, proven as FOREIGN KEY"),
    ("leave the log", f"{RETRIES} set unlogged", {"create_user_once", "delete_user", "forget_answer"}, "durability of idempotency_keys is new: unlogged"),
    ("call a function in a check", "create function f(text) returns boolean language plpgsql as 'begin return true; end';"
     "alter table api_keys add constraint c check (f(name)); ", {"create_api_key"}, "begin return true; end"),
    ("add a check", "alter table users add constraint c check (length(display_name) < 9)",
     {*CHANGING, "update_users"}, "constraint users.c is new: CHECK"),
    ("add a unique index", "create unique index u on users (display_name)", {*CHANGING, "update_users"},
     "constraint users.u is new: UNIQUE btree (display_name)"),
    ("add an exclusion", "alter table users add constraint e exclude (version with =) where (version < 0)",
     {*CREATING, "update_user", "update_users"}, "constraint users.e is new: EXCLUDE"),
    ("refer to a table", "create table extra (user_id bigint references users)", {"delete_user"},
     "constraint extra.extra_user_id_fkey is new: FOREIGN KEY"),
    ("change a default that stays within", f"{KEYS} alter created_at set default 'epoch'; set timezone = 'Asia/Tokyo'", {"create_api_key"},
     "default of api_keys.created_at is '1970-01-01 00:00:00+00'::timestamp with time zone, proven as now()"),
    ("trigger an insert", f"{TRIGGER} before insert on users for each row execute function f()", CREATING,
     "trigger users.t is new: CREATE TRIGGER t BEFORE INSERT ON users"),
    ("trigger the update of a column", f"{TRIGGER} after update of profile on users execute function f()",
     {"update_user"}, "trigger users.t is new"),
    ("add to a statement by a rule", "create rule r as on delete to users do notify gone", {"delete_user"},
     "rule users.r is new"),
    ("hide rows from others than the owner", UPDATE_POLICY,
     {name for name, each in read_written().queries.items() if "users" in each.relations},
     "row security of users is new: enabled\nmine * permissive"),
    ("lose a mark", "comment on column users.hashed_password is 'secert'", CREATING,
     "users.hashed_password is not marked secret"),
]  # fmt: skip


def test_a_change_that_breaks_no_query_is_told_all_the_same(database_url: DatabaseUrl) -> None:
    for what, statement, names, said in TELLING:
        differences, _ = look(database_url, statement)
        assert gather(differences, breaks=True) == {}, what
        drift = gather(differences, breaks=False)
        assert drift.keys() - OTHERS == names - OTHERS, what
        assert {name for name in names - OTHERS if said not in drift[name]} == set(), f"{what}: {drift}"


HARMLESS = [
    "alter table users add note text",
    "alter table users add note text not null default ''",
    "alter table users add note bigint generated always as identity",
    "alter table users add note text not null generated always as (email || '!') stored",
    "alter table users add a jsonb, add b numeric(3, 2), add c text[]",
    "create index on users (display_name)",
    "drop index users_created_at_id_idx; create index on users (created_at, id, email)",
    "alter index users_created_at_id_idx rename to walked",
    "create table extra (id bigint not null, email text not null)",
    "create view extra as select * from users",
    "create schema other; create table other.users (note text not null)",
    "alter table migration_checksums alter applied_at drop not null",
    "insert into api_keys (name, key_hash, scopes) values ('x', 'x', '{}')",
    "set quote_all_identifiers = on; set bytea_output = 'escape'; set timezone = 'Asia/Tokyo'",
]


def test_a_change_that_matters_to_no_query_is_no_drift(database_url: DatabaseUrl) -> None:
    drift = {statement: look(database_url, statement)[0] for statement in HARMLESS}
    assert {statement: names for statement, names in drift.items() if names} == {}


@pytest.mark.usefixtures("impatient")
def test_readiness_names_the_queries_that_would_break_until_the_schema_is_mended(
    client: httpx.Client, sql: Sql
) -> None:
    assert client.get("/health/ready").status_code == 200
    sql(f"{KEYS} alter created_at drop not null, add note text not null default ''")
    sql(f"{KEYS} alter note drop default, drop constraint api_keys_key_hash_key")
    document = problem(client.get("/health/ready"), 503)
    details = [error["detail"] for error in document["errors"]]
    assert {error["pointer"] for error in document["errors"]} == {"#/schema"}
    assert sorted(re.match(r"\w+", detail)[0] for detail in details) == [
        "create_api_key",
        "get_api_key",
        "list_api_keys",
    ]
    sql(f"{KEYS} alter created_at set not null, drop note")
    sql(f"{KEYS} add constraint api_keys_key_hash_key unique (key_hash)")
    assert client.get("/health/ready").status_code == 200


def test_readiness_names_a_query_that_no_longer_prepares(client: httpx.Client, sql: Sql) -> None:
    sql("alter table users rename referred_by to brought_by")
    details = " ".join(error["detail"] for error in problem(client.get("/health/ready"), 503)["errors"])
    named = {query for query in read_written().queries if re.search(rf"\b{query}\b", details)}
    assert named == CREATING


@pytest.mark.parametrize(
    ("before", "after", "wider"),
    [
        ("integer", "bigint", True),
        ("smallint not null", "integer not null", True),
        ("bigint", "integer", False),
        ("integer not null", "bigint", False),
        ("character varying(10)", "character varying(20)", True),
        ("character varying(10)", "text", True),
        ("character varying(10)", "character varying", True),
        ("character varying(20)", "character varying(10)", False),
        ("text", "character varying(20)", False),
        ("text", 'text collate "C"', False),
        ("integer", "text", False),
        ("enum 'a', 'b'", "enum 'a', 'c', 'b'", True),
        ("enum 'a', 'b'", "enum 'a', 'c'", False),
        ("timestamp(0) with time zone", "timestamp with time zone", False),
    ],
)
def test_a_wider_type_breaks_nothing(before: str, after: str, wider: bool) -> None:
    assert widens(before, after) == wider
