"""A second judge of queries, which shares no code with the check: it fills tables at random and looks at what comes."""

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.types.string import TextLoader

SECRET = "hunter2"
"""What every secret column holds: whoever finds it in a result found a leak."""

COLUMNS = """
select c.oid::regclass::text, a.attname, a.attnotnull,
    case when col_description(c.oid, a.attnum) = 'secret' then 'secret'
        else format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null) end
from pg_class c join pg_attribute a on a.attrelid = c.oid join pg_type t on t.oid = a.atttypid
where c.relnamespace = any(array['public', 'side']::regnamespace[]) and c.relkind in ('r', 'p') and not c.relispartition
    and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by c.oid, a.attnum
"""


class Verdict(NamedTuple):
    """What is said of a query: of each column whether it is null, holds nulls, is made of secrets; how many rows."""

    nullable: tuple[bool, ...]
    holding: tuple[bool, ...]
    secret: tuple[bool, ...]
    single: bool
    present: bool


def make_value(dice: random.Random, type_: str) -> object:
    """A value of a type, often the same, sometimes odd."""
    makers: dict[str, list[Any]] = {
        "integer": [1, 1, 2, 2, 3, 3, 4, 0, -1],
        "numeric": [0, 1.5, float("nan")],
        "secret": [SECRET],
        "text": ["a", "b", "login", "visit", ""],
        "mood": ["glad", "sad"],
        "date": ["2026-01-31", "infinity"],
        "timestamp with time zone": ["2026-01-31 12:00Z", "-infinity"],
        "text[]": [[], ["a"], ["a", None], [None]],
        "integer[]": [[], [1, 2], [None, 3]],
        "jsonb": ['{"a": null, "b": 1}', "{}", "null", "[1, null]", "2"],
        "place": ["(Rome,)", "(,Via)", "(,)"],
        "int4range": ["[1,2)", "[1,3)", "[2,3)", "(,1)"],
    }
    return dice.choice(makers[type_])


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Gives what Python has no value for as text, and lets no statement run on."""
    for name in ("date", "timestamptz", "json", "jsonb"):
        connection.adapters.register_loader(name, TextLoader)
    connection.execute("set statement_timeout = '10s'")


def fill(connection: psycopg.Connection[Any], dice: random.Random) -> None:
    """Puts a few rows into each table, or none; what does not fit is left out."""
    tables: dict[str, list[tuple[str, str, bool]]] = {}
    for table, column, not_null, type_ in connection.execute(COLUMNS.encode()).fetchall():
        tables.setdefault(table, []).append((column, type_, not_null))
    for table, columns in tables.items():
        names = ", ".join(f'"{name}"' for name, _, _ in columns)
        places = ", ".join(f"%s::{'text' if type_ == 'secret' else type_}" for _, type_, _ in columns)
        for _ in range(dice.choice([0, 1, 4, 8])):
            row = [
                None if dice.random() < 0.3 and not not_null else make_value(dice, type_)
                for _, type_, not_null in columns
            ]
            try:
                with connection.transaction():
                    statement = f"insert into {table} ({names}) overriding system value values ({places})"
                    connection.execute(statement.encode(), row)
            except psycopg.Error:
                continue
    connection.execute("refresh materialized view team_sizes")


ARGUMENTS = {"id": "integer", "n": "integer", "name": "text", "ids": "integer[]", "names": "text[]"}
"""The type of each parameter, by its name; `maybe_…` may be null."""


def make_arguments(dice: random.Random, names: Sequence[str]) -> dict[str, object]:
    """Values for parameters. Lists hold no null, as the types say that the check is given."""
    made: dict[str, object] = {}
    for name in names:
        value = make_value(dice, ARGUMENTS[name.removeprefix("maybe_")])
        value = [each for each in value if each is not None] if isinstance(value, list) else value
        made[name] = None if name.startswith("maybe_") and dice.random() < 0.5 else value
    return made


def find_lies(
    connection: psycopg.Connection[Any], statement: str, arguments: dict[str, object], verdict: Verdict
) -> Iterator[str]:
    """Runs a statement, undoes it, and says where what came is not what was said."""
    text = re.sub(r"(?<![:\w]):(\w+)", lambda found: f"%({found[1]})s", statement.replace("%", "%%"))
    try:
        with connection.transaction(force_rollback=True):
            cursor = connection.execute(text.encode(), arguments)
            rows = cursor.fetchall() if cursor.description else []
    except psycopg.Error:
        return
    if len(rows) > 1 and verdict.single:
        yield f"{len(rows)} rows, where there is one at most"
    if not rows and verdict.present:
        yield "no row, where there always is one"
    for row in rows:
        for number, value in enumerate(row):
            yield from find_lies_about(number, value, verdict)


def find_lies_about(number: int, value: object, verdict: Verdict) -> Iterator[str]:
    """Says where a value is not what was said of its column."""
    if value is None and not verdict.nullable[number]:
        yield f"column {number} was null"
    if isinstance(value, list) and None in value and not verdict.holding[number]:
        yield f"column {number} held a null"
    if SECRET in str(value) and not verdict.secret[number]:
        yield f"column {number} held a secret"
