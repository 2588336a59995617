"""What can only be seen by running a query: on tables that are large, with nulls where nulls may come."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, get_args, get_origin
from uuid import UUID

import asyncpg

from svc.check.catalog import AnalysisQueries
from svc.check.prove import Schema
from svc.check.scratch import ScratchConnection
from svc.check.types import split_optional
from svc.http.fields import JsonObject
from svc.postgres.catalog import Column

FEW, ROWS = 2_000, 20_000
"""Both are enough for a plan to show what an index is worth: an empty table is always read whole."""

PATIENCE = 1000
"""Milliseconds that a trial may take; one that takes longer shows nothing."""

FILLERS = {
    "bigint": "n",
    "integer": "n",
    "smallint": "n % 30000",
    "numeric": "n",
    "real": "n",
    "double precision": "n",
    "boolean": "true",
    "text": "'v@' || n",
    "character varying": "'v@' || n",
    "character": "'v@' || n",
    "bytea": "int8send(n)",
    "uuid": "lpad(to_hex(n), 32, '0')::uuid",
    "jsonb": "'{}'",
    "json": "'{}'",
    "interval": "n * interval '1 second'",
    "date": "date '2026-01-01' - n::int % 3000",
    "timestamp with time zone": "timestamptz '2026-01-01Z' - n * interval '1 minute'",
    "timestamp without time zone": "timestamp '2026-01-01' - n * interval '1 minute'",
}
"""A value for row `n` of a column of each type. Where a column may be null, it is in every second row.

A text is one that checks are likely to let pass: a line, and something like an address.
"""


def sample(n: int, text: str) -> dict[str, object]:
    """Return a value for a parameter of each type, as row `n` has it."""
    moment = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(minutes=n)
    return {
        **dict.fromkeys(["int2", "int4", "int8"], n),
        "numeric": Decimal(n),
        **dict.fromkeys(["float4", "float8"], float(n)),
        "bool": n % 2 == 1,
        **dict.fromkeys(["text", "varchar", "bpchar", "name"], text),
        "bytea": n.to_bytes(8, "big"),
        "uuid": UUID(int=n),
        "jsonb": JsonObject("{}"),
        "interval": timedelta(seconds=n),
        "date": date(2026, 1, 1) - timedelta(days=n),
        "time": time(12),
        "timestamptz": moment,
        "timestamp": moment.replace(tzinfo=None),
    }


SAMPLES = [sample(1, "v@1"), sample(2, "v@2"), sample(2900, "!@!")]
"""A row without nulls, a row with nulls, and a text that is in no row: what is taken cannot be inserted."""

DROP_CHECKS = """
do $$ declare found record; begin
    for found in select conrelid::regclass as t, conname as c from pg_constraint
    where contype = 'c' and conrelid <> 0 and connamespace = current_schema()::regnamespace
    loop execute format('alter table %s drop constraint %I', found.t, found.c); end loop;
end $$
"""


async def fill(
    connection: ScratchConnection, schema: Schema, used: set[str], rows: int = ROWS
) -> dict[str, str]:
    """Put rows into every table that is used, and analyse it. Where checks refuse them, the checks go.

    Return the tables that stay empty, each with the reason: trials on them would show nothing.
    """
    labels = {enum.name: enum.labels for enum in await AnalysisQueries.bind(connection).list_enum_labels()}
    tables: dict[str, list[Column]] = {}
    for column in schema.catalog.columns.values():
        known = str(column.relation) in schema.catalog.views
        if column.table_name in used and not (column.generated or known):
            tables.setdefault(column.table_name, []).append(column)
    await connection.execute("set session_replication_role = replica")
    empty = {table: await fill_table(connection, table, tables[table], labels, rows) for table in tables}
    await connection.execute("reset session_replication_role")
    await connection.execute("vacuum analyze")
    return {table: reason for table, reason in empty.items() if reason}


async def fill_table(
    connection: ScratchConnection,
    table: str,
    columns: Sequence[Column],
    labels: Mapping[str, Sequence[str]],
    rows: int,
) -> str:
    """Put rows into one table. Return why that cannot be done, or nothing."""
    fillers = {column.name: value for column in columns if (value := filler(column, labels))}
    names, values = ", ".join(f'"{name}"' for name in fillers), ", ".join(fillers.values())
    source = f"from generate_series(1, {rows}) as n on conflict do nothing"
    statement = f"insert into {table} ({names}) select {values} {source}"
    reason = ""
    for attempt in (statement, DROP_CHECKS, statement):
        try:
            await connection.execute(attempt)
        except asyncpg.PostgresError as error:
            reason = f"{error.sqlstate} {error.args[0]}"
        else:
            if attempt == statement:
                return ""
    return reason


def filler(column: Column, labels: Mapping[str, Sequence[str]]) -> str | None:
    """Return the value for row `n`, if its type has one; a reference stays null where it can."""
    if column.foreign_key and not column.not_null:
        return None
    value = make_filler(column.type, labels)
    if value is None:
        return None
    value = f"({value})::{column.type}"
    return value if column.not_null else f"case when n % 2 = 1 then {value} end"


def make_filler(type_: str, labels: Mapping[str, Sequence[str]]) -> str | None:
    """Return the value of a type for row `n`: of an enum a label, of an array one with one value."""
    if type_.endswith("[]"):
        element = make_filler(type_.removesuffix("[]"), labels)
        return element and f"array[{element}]"
    if type_ in labels:
        listed = ", ".join(f"'{label}'" for label in labels[type_])
        return f"(array[{listed}])[(n - 1) % {len(labels[type_])} + 1]"
    if length := re.fullmatch(r"character(?: varying)?\((\d+)\)", type_):
        return f"left('v@' || n, {length[1]})"
    if digits := re.fullmatch(r"numeric\((\d+),(\d+)\)", type_):
        return f"n % {10 ** max(0, int(digits[1]) - int(digits[2]))}"
    return FILLERS.get(re.sub(r"\(\d+\)", "", type_))


def pick(type_: Any, samples: Mapping[str, object], labels: Mapping[str, Sequence[str]]) -> object:
    """Return the sample for a parameter of a type, None where there is none; of an array, one of it."""
    name = type_.name.removesuffix("[]")
    value = labels[name][0] if name in labels else samples.get(name)
    return [value] if type_.kind == "array" else value


def find_nulls(types: Sequence[Any]) -> dict[int, object]:
    """Return the null of each parameter that may be one, by its place; of an array, one with a null."""
    nulls: dict[int, object] = {}
    for number, type_ in enumerate(types):
        bare, optional = split_optional(type_)
        if optional:
            nulls[number] = None
        elif get_origin(bare) is list and split_optional(get_args(bare)[0])[1]:
            nulls[number] = [None]
    return nulls
