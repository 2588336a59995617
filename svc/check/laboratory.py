"""What can only be seen by running a query: on tables that are large, with nulls where nulls may come."""

import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, get_args, get_origin
from uuid import UUID

import asyncpg
import msgspec

from svc.check.findings import Finding, find, find_parameter
from svc.check.prove import EXPLAIN, ON_TABLE, Schema, declared_parameters, read_marks, type_name
from svc.check.scratch import ScratchConnection
from svc.check.tree import walk
from svc.check.types import split_optional
from svc.http.fields import JsonObject
from svc.postgres.catalog import CatalogQueries, Column
from svc.postgres.queries import Signature
from svc.postgres.statements import Query

FEW, ROWS = 2_000, 20_000
"""Both are enough for a plan to show what an index is worth: an empty table is always read whole."""

BOUNDED = 50
"""Rows that a hot query may examine for each that it returns, however it does it."""

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
    "text": "'v' || n",
    "character varying": "'v' || n",
    "character": "'v' || n",
    "bytea": "int8send(n)",
    "uuid": "lpad(to_hex(n), 32, '0')::uuid",
    "jsonb": "'{}'",
    "json": "'{}'",
    "interval": "n * interval '1 second'",
    "date": "date '2026-01-01' - n::int % 3000",
    "timestamp with time zone": "timestamptz '2026-01-01Z' - n * interval '1 minute'",
    "timestamp without time zone": "timestamp '2026-01-01' - n * interval '1 minute'",
}
"""A value for row `n` of a column of each type. Where a column may be null, it is in every second row."""


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
        "jsonb": JsonObject(),
        "interval": timedelta(seconds=n),
        "date": date(2026, 1, 1) - timedelta(days=n),
        "time": time(12),
        "timestamptz": moment,
        "timestamp": moment.replace(tzinfo=None),
    }


SAMPLES = [sample(1, "v1"), sample(2, "v2"), sample(2900, "!")]
"""A row without nulls, a row with nulls, and a text that is in no row: what is taken cannot be inserted."""

PROBES = [sample(0, ""), sample(1, "v1"), sample(30_000, "~")]
"""What is before all rows, in the first one, behind all: of a boolean, what no row has and what all have."""

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
    labels = {enum.name: enum.labels for enum in await CatalogQueries.bind(connection).list_enum_labels()}
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
        return f"left('v' || n, {length[1]})"
    if digits := re.fullmatch(r"numeric\((\d+),(\d+)\)", type_):
        return f"n % {10 ** max(0, int(digits[1]) - int(digits[2]))}"
    return FILLERS.get(re.sub(r"\(\d+\)", "", type_))


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


class Probe(NamedTuple):
    """Values of the parameters: which are null, and which one is varied, with which sample."""

    nulls: tuple[bool, ...]
    varied: int | None = None
    sample: int = 1


def make_probes(types: Sequence[Any]) -> list[Probe]:
    """Return a probe without all that may be null, and each other value of each parameter."""
    nulls = tuple(number in find_nulls(types) for number in range(len(types)))
    varied = [Probe(nulls, number, sample) for number in range(len(types)) for sample in range(len(PROBES))]
    return [Probe(nulls), *varied]


def count_examined(node: Mapping[str, Any]) -> int:
    """Return how many rows of a table a node of a plan has looked at, whatever became of them."""
    if "Relation Name" not in node or "Scan" not in node["Node Type"]:
        return 0
    removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
    return int((node["Actual Rows"] + removed) * node["Actual Loops"])


class Experiment:
    """Runs one query on filled tables, and leaves nothing behind."""

    def __init__(
        self, connection: ScratchConnection, schema: Schema, query: Query, signature: Signature
    ) -> None:
        self.connection = connection
        self.schema = schema
        self.query = query
        self.parameters = declared_parameters(query, signature)
        self.walked = set[str]()
        """The names of the indexes that it walks, if it is hot."""
        self.suspects: dict[Probe, int] | None = None
        """How many rows it examines of few, beyond what it has use for; None where that was not probed."""

    async def run(self) -> list[Finding]:
        """Find nulls that a column refuses, annotations that lie, hot queries that read whole tables."""
        statement = await self.connection.prepare(self.query.sql)
        types = statement.get_parameters()
        if EXPLAIN.match(self.query.sql):
            return []
        found = [*await self._check_running()] if ON_TABLE.fullmatch(self.query.sql) else []
        for samples in SAMPLES if types else SAMPLES[:1]:
            found += await self._try_nulls([self._sample(type_, samples) for type_ in types])
        found = list(dict.fromkeys(found))
        if "hot" in self.query.annotations:
            found += await self._check_plan(types)
        return found

    async def probe(self) -> None:
        """Find with which values a hot query examines more than it has use for, of tables with few rows."""
        if "hot" in self.query.annotations:
            types = (await self.connection.prepare(self.query.sql)).get_parameters()
            probes = make_probes([self.parameters[name] for name in self.query.parameters])
            async with self._prepared(types):
                examined = {probe: await self._examine(types, probe) for probe in probes}
            self.suspects = {probe: rows for probe, rows in examined.items() if rows > BOUNDED}

    async def _check_running(self) -> list[Finding]:
        """Find what stops a statement that nothing analyses: a `truncate` of what others refer to."""
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            await self.connection.execute(f"set local statement_timeout = {PATIENCE}")
            await self.connection.execute(self.query.sql)
        except asyncpg.QueryCanceledError:
            return []
        except asyncpg.PostgresError as error:
            said = f"{error.sqlstate} {error.args[0]}"
            return [
                find(self.query, "trial", "a statement that runs, or is asked before", said, warning=True)
            ]
        finally:
            await transaction.rollback()
        return []

    def _sample(self, type_: Any, samples: Mapping[str, object]) -> object:
        name = type_.name.removesuffix("[]")
        labels = self.schema.labels.get(name)
        value = labels[0] if labels else samples.get(name)
        return [value] if type_.kind == "array" else value

    async def _try_nulls(self, samples: list[object]) -> list[Finding]:
        """Run it with samples, then with null for each parameter that may be null, then for all of them."""
        optional = find_nulls([self.parameters[name] for name in self.query.parameters])
        found: list[Finding] = []
        for nulls in dict.fromkeys([(), *((number,) for number in optional), (*optional,)]):
            if len(nulls) > 1 and found:  # one of them alone has shown it
                break
            arguments = [optional[n] if n in nulls else sample for n, sample in enumerate(samples)]
            try:
                rows = await self._run_and_undo(arguments)
            except asyncpg.NotNullViolationError as error:
                name = self.query.parameters[nulls[0]] if len(nulls) == 1 else None
                expected = (
                    f"{name} may be null, as its type says"
                    if name
                    else "every column that needs a value has one"
                )
                at = find_parameter(self.query, name) if name else None
                found.append(
                    find(
                        self.query,
                        "null-parameter",
                        expected,
                        f"{error.table_name}.{error.column_name} refuses null",
                        at,
                    )
                )
                if not nulls:
                    break
            else:
                found += self._check_annotations(rows) if rows is not None else ()
        return found

    async def _run_and_undo(self, arguments: list[object]) -> list[Any] | None:
        """Return the rows, or None for an error that is not asked for here. Raises NotNullViolationError."""
        transaction = self.connection.transaction()
        await transaction.start()
        await self.connection.execute(f"set local statement_timeout = {PATIENCE}")
        try:
            return await self.connection.fetch(self.query.sql, *arguments)
        except asyncpg.NotNullViolationError:
            raise
        except asyncpg.PostgresError:  # a key that is taken, a value out of range
            return None
        finally:
            await transaction.rollback()

    def _check_annotations(self, rows: list[Any]) -> Iterator[Finding]:
        for name in self.query.annotations.get("not_null", "").replace(",", " ").split():
            column = name.removesuffix("[]")
            values = [row[column] for row in rows if column in row.keys()]  # noqa: SIM118
            if self.query.kind == "columns" or column != name:
                values = [element for array in values for element in ([None] if array is None else array)]
            if None in values:
                said = f"{name} is never null, as @not_null says"
                yield find(self.query, "annotation", said, f"{name} was null")
        if "always" in self.query.annotations and not rows:
            yield find(self.query, "annotation", "a row always, as @always says", "no row")

    async def _check_plan(self, types: Sequence[Any]) -> list[Finding]:
        """Check the plan for parameters that are not known: what every later execution uses."""
        async with self._prepared(types):
            nodes = await self._explain("explain (format json)", ["null"] * len(types))
            suspects = self.suspects or {}
            growing = {
                probe for probe, few in suspects.items() if await self._examine(types, probe) > 2 * few
            }
        self.walked = {node["Index Name"] for node in nodes if "Index Name" in node}
        scans = [node["Relation Name"] for node in nodes if node.get("Node Type") == "Seq Scan"]
        found = [self._miss(f"an index on {table}", "it reads the whole table") for table in scans]
        if found or self.suspects is None:
            return found
        return [*self._check_growth({probe.varied for probe in growing})]

    def _check_growth(self, growing: Set[int | None]) -> Iterator[Finding]:
        """Find parameters with which ever more rows are examined as the table grows, and needless marks."""
        marked = read_marks(self.query.annotations.get("unindexed")) or set()
        names = {self.query.parameters[number] for number in growing if number is not None}
        if None in growing:
            yield self._miss("as many rows examined in a large table as in a small one", "ever more of them")
            return
        for name in sorted(names - marked):
            expected = f"an index that finds :{name}, or a mark: -- @unindexed: {name}: why"
            yield self._miss(expected, "ever more rows examined as the table grows", name)
        for name in sorted(marked - names):
            yield find(self.query, "annotation", f"no @unindexed for {name}", "an index finds it")

    def _miss(self, expected: str, found: str, name: str | None = None) -> Finding:
        at = find_parameter(self.query, name) if name else None
        return find(self.query, "plan", f"{expected}, since it is @hot", found, at)

    @asynccontextmanager
    async def _prepared(self, types: Sequence[Any]) -> AsyncGenerator[None]:
        """Have the query prepared for a while as `hot`, with one plan for all parameters."""
        declared = f" ({', '.join(type_name(type_) for type_ in types)})" if types else ""
        await self.connection.execute("set plan_cache_mode = force_generic_plan")
        await self.connection.execute(f"prepare hot{declared} as {self.query.sql}")
        try:
            yield
        finally:
            await self.connection.execute("deallocate hot")
            await self.connection.execute("reset plan_cache_mode")

    async def _explain(self, how: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
        """Return the nodes of its plan."""
        given = f" ({', '.join(arguments)})" if arguments else ""
        text = await self.connection.fetchval(f"{how} execute hot{given}")
        return [node for node in walk(msgspec.json.decode(text)) if "Node Type" in node]

    async def _examine(self, types: Sequence[Any], probe: Probe) -> int:
        """Return how many rows of tables it examines, but for those that a limit lets through."""
        pairs = zip(types, probe.nulls, strict=True)
        values = [None if null else self._sample(type_, PROBES[1]) for type_, null in pairs]
        if probe.varied is not None:
            values[probe.varied] = self._sample(types[probe.varied], PROBES[probe.sample])
        texts = ", ".join(
            f"quote_nullable(${n}::{type_name(type_)}::text)" for n, type_ in enumerate(types, 1)
        )
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            await self.connection.execute(f"set local statement_timeout = {PATIENCE}")
            literals = await self.connection.fetchrow(f"select {texts}", *values)
            how = "explain (analyze, format json, costs off, timing off, summary off, buffers off)"
            nodes = await self._explain(how, [*(literals or ())])
        except asyncpg.QueryCanceledError:
            return 2 * ROWS
        except asyncpg.PostgresError:  # a key that is taken, a value out of range
            return 0
        finally:
            await transaction.rollback()
        limits = [node for node in nodes if node["Node Type"] == "Limit"]
        limited = sum(node["Actual Rows"] * node["Actual Loops"] for node in limits)
        return sum(map(count_examined, nodes)) - int(limited)
