"""queries/proven.json beside the live schema: what drifted is told by the names of the queries that it breaks."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from svc.config import DatabaseUrl
from svc.postgres.catalog import CatalogQueries, find_drift, read_proven
from svc.postgres.connection import Connection, connect
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


def look(url: DatabaseUrl, statement: str = "select") -> tuple[dict[str, str], list[str]]:
    """What a change makes drift, by query, and which queries were asked to find it; then it is undone."""

    async def run() -> tuple[list[str], list[str]]:
        connection = await connect(make_config(url))
        try:
            await connection.execute(f"begin; {statement}")
            recorder = Recorder(connection)
            return await find_drift(CatalogQueries.bind(recorder)), recorder.names
        finally:
            await connection.close()

    lines, asked = asyncio.run(run())
    pairs = [line.split(": ", 1) for line in lines]
    assert len(dict(pairs)) == len(pairs), "a query is named twice"
    return dict(pairs), asked


def test_the_migrated_schema_is_the_one_that_was_proven(database_url: DatabaseUrl) -> None:
    drift, asked = look(database_url)
    assert drift == {}
    assert len(asked) == 2, "it is asked at each start, so it must stay cheap"


def test_every_query_was_proven_and_nothing_else() -> None:
    assert read_proven().keys() == {query.name for queries in QUERIES for query, _ in queries.pairs()}


KEYS, RETRIES = "alter table api_keys", "alter table idempotency_keys"
CREATING = {"create_user", "create_user_once", "import_users"} & read_proven().keys()
"""What makes users; the import may have been deleted."""

# What is done, whom it breaks, and what is said of each.
DRIFTS = [
    ("rename a column", f"{KEYS} rename expires_at to ends_at",
     {"create_api_key", "get_api_key", "list_api_keys"}, "there is no api_keys.expires_at"),
    ("rename a table", "alter table idempotency_keys rename to retries",
     {"create_user_once", "get_first_answer"}, "there is no idempotency_keys.body_hash"),
    ("move a table", "create schema other; alter table idempotency_keys set schema other",
     {"create_user_once", "get_first_answer"}, "there is no idempotency_keys.key_hash"),
    ("drop a column", f"{RETRIES} drop body_hash",
     {"create_user_once", "get_first_answer"}, "there is no idempotency_keys.body_hash"),
    ("change a type", f"{KEYS} alter name type varchar(200)",
     {"create_api_key", "list_api_keys"}, "api_keys.name is character varying(200) not null, proven as text not null"),
    ("drop a not null", f"{KEYS} alter created_at drop not null",
     {"list_api_keys"}, "api_keys.created_at is timestamp with time zone, proven as timestamp with time zone not null"),
    ("drop a unique key", f"{KEYS} drop constraint api_keys_key_hash_key",
     {"get_api_key"}, "there is no unique key on api_keys (key_hash)"),
    ("drop a primary key", "alter table users drop constraint users_pkey cascade",
     {"get_user", "update_user"}, "there is no unique key on users (id)"),
    ("bound a unique key", f"{KEYS} drop constraint api_keys_key_hash_key;"
     "create unique index on api_keys (key_hash) where revoked_at is null",
     {"get_api_key"}, "there is no unique key on api_keys (key_hash)"),
    ("widen a unique key", f"{KEYS} drop constraint api_keys_key_hash_key, add unique (key_hash, name)",
     {"get_api_key"}, "there is no unique key on api_keys (key_hash)"),
    ("ask for a new value", "alter table users add note text not null", CREATING, "users.note needs a value"),
    ("ask for a value", "alter table users alter version drop default", CREATING, "users.version needs a value"),
    ("ask for a number", "alter table users alter id drop identity", CREATING, "users.id needs a value"),
]  # fmt: skip


def test_a_change_that_breaks_queries_names_exactly_these(database_url: DatabaseUrl) -> None:
    for what, statement, names, said in DRIFTS:
        drift, asked = look(database_url, statement)
        assert drift.keys() == names, what
        assert {name for name in names if said not in drift[name]} == set(), f"{what}: {drift}"
        assert len(asked) == 2, what


HARMLESS = [
    "alter table users add note text",
    "alter table users add note text not null default ''",
    "alter table users add note bigint generated always as identity",
    "alter table users add note text not null generated always as (email || '!') stored",
    "alter table users alter profile drop default",
    "alter table users alter is_active set default false",
    "create index on users (display_name)",
    "create unique index on users (id, email)",
    "drop index users_referred_by_idx",
    "create table extra (id bigint not null, email text not null)",
    "create view extra as select * from users",
    "create schema other; create table other.users (note text not null)",
    "alter table users rename constraint users_profile_is_small to users_profile_is_short",
    "alter table migration_checksums alter applied_at drop not null",
    "insert into api_keys (name, key_hash, scopes) values ('x', 'x', '{}')",
]


def test_a_change_that_breaks_no_query_is_no_drift(database_url: DatabaseUrl) -> None:
    drift = {statement: look(database_url, statement)[0] for statement in HARMLESS}
    assert {statement: names for statement, names in drift.items() if names} == {}


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
    named = {query for query in read_proven() if re.search(rf"\b{query}\b", details)}
    assert named == CREATING
