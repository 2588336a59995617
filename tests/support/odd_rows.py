"""Rows that others put into the table of users before there were rules for them, and a service on such a table."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import httpx
import psycopg

from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.migrations import migrate, read_files, rollback
from tests.support import Service, make_config, make_key
from tests.support.databases import Databases

RULES = ["0009_check_users", "0010_validate_users_checks"]

FIRST, LAST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
HIGHEST = "\U0010ffff"


class Odd(NamedTuple):
    """A row that others put in: the rule that it breaks, and what of it is not as in other rows."""

    rule: str | None
    columns: dict[str, object]

    @property
    def curable(self) -> str | None:
        """The field that a client may set right; None where there is nothing to set right, or no way to."""
        return {"users_email_is_canonical": "email", "users_display_name_is_a_line": "display_name"}.get(
            self.rule or ""
        )


EMAIL, NAME = "users_email_is_canonical", "users_display_name_is_a_line"
CREATED, UPDATED = "users_created_at_has_a_year", "users_updated_at_has_a_year"

ODD = {
    "for ever": Odd(CREATED, {"created_at": "infinity"}),
    "since ever": Odd(CREATED, {"created_at": "-infinity"}),
    "year 10000": Odd(CREATED, {"created_at": "10000-01-01 00:00Z"}),
    "year 20000": Odd(CREATED, {"created_at": "20000-01-01 00:00Z"}),
    "the last year there is": Odd(CREATED, {"created_at": "294276-12-31 23:59:59.999999Z"}),
    "for ever, too": Odd(CREATED, {"created_at": "infinity"}),
    "1 BC": Odd(CREATED, {"created_at": "0001-12-31 23:59:59Z BC"}),
    "44 BC": Odd(CREATED, {"created_at": "0044-03-15 12:00Z BC"}),
    "changed for ever": Odd(UPDATED, {"updated_at": "infinity"}),
    "changed in 44 BC": Odd(UPDATED, {"updated_at": "0044-03-15 12:00Z BC"}),
    "no address": Odd(EMAIL, {"email": ""}),
    "upper case": Odd(EMAIL, {"email": "Upper@Example.com"}),
    "blanks": Odd(EMAIL, {"email": " blank@example.com "}),
    "no @": Odd(EMAIL, {"email": "nobody"}),
    "two @": Odd(EMAIL, {"email": "a@b@example.com"}),
    "decomposed": Odd(EMAIL, {"email": "ade\u0301@example.com"}),
    "a line end": Odd(EMAIL, {"email": "a\n@example.com"}),
    "a control character": Odd(EMAIL, {"email": "\x01@example.com"}),
    "another direction": Odd(EMAIL, {"email": "a\u202eb@example.com"}),
    "a long address": Odd(EMAIL, {"email": f"{'l' * 1500}@example.com"}),
    "the highest address": Odd(EMAIL, {"email": HIGHEST}),
    "an even higher one": Odd(EMAIL, {"email": f"{HIGHEST}{HIGHEST}@example.com"}),
    "no name": Odd(NAME, {"display_name": ""}),
    "a long name": Odd(NAME, {"display_name": "n" * 201}),
    "a name of two lines": Odd(NAME, {"display_name": "Ada\r\nLovelace"}),
    "a name with an end of line": Odd(NAME, {"display_name": "Ada\n"}),
    "a name with controls": Odd(NAME, {"display_name": "\x1b[31mAda\x7f\x9b\u2066"}),
    "the highest name": Odd(NAME, {"display_name": HIGHEST}),
    # What no rule is about, because it is served as it is; ids below 1 in lists and exports alone, for they have no path.
    "version 0": Odd(None, {"version": 0}),
    "a version below": Odd(None, {"version": -(2**63)}),
    "the highest version": Odd(None, {"version": 2**63 - 1}),
    "id 0": Odd(None, {"id": 0}),
    "an id below": Odd(None, {"id": -5}),
    "an id below all others": Odd(None, {"id": -(2**62)}),
    "the first moment": Odd(None, {"created_at": FIRST}),
    "the last moment": Odd(None, {"created_at": LAST}),
    "the last moment, too": Odd(None, {"created_at": LAST}),
    "no hash": Odd(None, {"hashed_password": ""}),
    "a hash of another kind": Odd(None, {"hashed_password": "{SSHA}xyz"}),
    "huge numbers": Odd(None, {"profile": '{"a": 1e400, "b": -1e-400, "c": 123456789012345678901234567890}'}),
    "deep": Odd(None, {"profile": f'{{"a": {"[" * 500}{"]" * 500}}}'}),
    "a key twice": Odd(None, {"profile": '{"a": 1, "a": 2}'}),
    "all alike": Odd(None, {}),
}

INSERT = """
insert into users (id, email, hashed_password, display_name, profile, version, created_at, updated_at)
overriding system value
values (%(id)s, %(email)s, %(hashed_password)s, %(display_name)s, %(profile)s, %(version)s, %(created_at)s, %(updated_at)s)
"""

USUAL = {
    "hashed_password": "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
    "display_name": "Ada",
    "profile": '{"a": 0}',
    "version": 1,
    "created_at": "2026-01-01 00:00Z",
    "updated_at": "2026-01-01 00:00Z",
}


def insert(connection: "psycopg.Connection[Any]", id_: int, columns: dict[str, object]) -> int:
    """Put a row in as others would; return its id."""
    row = {"id": id_, "email": f"user{id_}@example.com", **USUAL, **columns}
    connection.execute(INSERT.encode(), row)
    return int(row["id"])  # type: ignore[call-overload]


class Filled(NamedTuple):
    """A service on a database in which there were odd rows before there were rules: their ids, by name."""

    url: DatabaseUrl
    client: httpx.Client
    ids: dict[str, int]

    def sql(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Run SQL past the service."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []


def roll_back(config: Config) -> list[str]:
    """Take the rules back, and what came later; return the names of all that."""
    names = [*read_files()]
    later = names[names.index(RULES[0]) :]
    assert later[: len(RULES)] == RULES
    assert asyncio.run(rollback(config, len(later))) == later[::-1]
    return later


def fill(url: DatabaseUrl) -> dict[str, int]:
    """Make a database as it was before the rules, put the odd rows in, each with one like all others around."""
    config = make_config(url)
    later = roll_back(config)
    with psycopg.connect(url) as connection:
        insert(connection, 1, {})
        ids = {}
        for number, (name, odd) in enumerate(ODD.items(), 1):
            ids[name] = insert(connection, 10 * number, odd.columns)
            insert(connection, 10 * number + 1, {})
    assert asyncio.run(migrate(config)) == later
    return ids


@contextmanager
def serve(databases: Databases) -> Iterator[Filled]:
    """Serve a database with odd rows."""
    with databases.lend() as url:
        ids, config = fill(url), make_config(url)
        with Service(config) as service, service.client(make_key(config)) as client:
            yield Filled(url, client, ids)


SHOWN = """
select id, email, display_name, is_active,
    case when created_at >= '10000-01-01Z' then %s when created_at < '0001-01-01Z' then %s else created_at::text end
from users order by id
"""


def read_rows(odd: Filled) -> dict[int, dict[str, Any]]:
    """All users as they are to be shown, by id."""
    names = ("id", "email", "display_name", "is_active", "created_at")
    rows = [dict(zip(names, row, strict=True)) for row in odd.sql(SHOWN, LAST, FIRST)]
    for row in rows:
        row["created_at"] = datetime.fromisoformat(row["created_at"])
    return {row["id"]: row for row in rows}


def parse(user: dict[str, Any]) -> dict[str, Any]:
    """A user as answered, with its moment read as RFC 3339 has it."""
    assert user["created_at"].endswith("Z")
    return user | {"created_at": datetime.fromisoformat(user["created_at"])}
