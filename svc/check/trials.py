"""What can only be seen by running a query on filled tables: with nulls where nulls may come."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import msgspec
from msgspec import Raw

from svc.check.findings import Finding, find, find_parameter
from svc.check.laboratory import PATIENCE, SAMPLES, find_nulls, pick
from svc.check.prove import EXPLAIN, ON_TABLE, Schema, declared_parameters
from svc.check.scratch import ScratchConnection
from svc.postgres.queries import Signature
from svc.postgres.statements import Query


class Experiment:
    """Runs one query on filled tables, and leaves nothing behind."""

    def __init__(
        self, connection: ScratchConnection, schema: Schema, query: Query, signature: Signature
    ) -> None:
        self.connection = connection
        self.schema = schema
        self.query = query
        self.parameters = declared_parameters(query, signature)

    async def run(self) -> list[Finding]:
        """Find nulls that a column refuses, annotations that lie, statements that do not run."""
        statement = await self.connection.prepare(self.query.sql)
        types = statement.get_parameters()
        if EXPLAIN.match(self.query.sql):
            return []
        found = [*await self._check_running()] if ON_TABLE.fullmatch(self.query.sql) else []
        for samples in SAMPLES if types else SAMPLES[:1]:
            found += await self._try_nulls([pick(type_, samples, self.schema.labels) for type_ in types])
        return list(dict.fromkeys(found))

    async def _check_running(self) -> list[Finding]:
        """Find what stops a statement that nothing analyses: a `truncate` of what others refer to."""
        try:
            async with self.connection.undone(PATIENCE):
                await self.connection.execute(self.query.sql)
        except asyncpg.QueryCanceledError:
            return []
        except asyncpg.PostgresError as error:
            expected = "a statement that runs, or a mark: -- @may_fail: why"
            said = f"{error.sqlstate} {error.args[0]}"
            return [] if "may_fail" in self.query.annotations else [find(self.query, "trial", expected, said)]
        return []

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
        try:
            async with self.connection.undone(PATIENCE):
                return await self.connection.fetch(self.query.sql, *arguments)
        except asyncpg.NotNullViolationError:
            raise
        except asyncpg.PostgresError:  # a key that is taken, a value out of range
            return None

    def _check_annotations(self, rows: list[Any]) -> Iterator[Finding]:
        for name in self.query.annotations.get("not_null", "").replace(",", " ").split():
            column = name.removesuffix("[]")
            values = [row[column] for row in rows if column in row.keys()]  # noqa: SIM118
            if self.query.kind == "columns" or column != name:
                lists = [msgspec.json.decode(v) if isinstance(v, Raw) else v for v in values]
                values = [element for each in lists for element in ([None] if each is None else each)]
            if None in values:
                said = f"{name} is never null, as @not_null says"
                yield find(self.query, "annotation", said, f"{name} was null")
        if "always" in self.query.annotations and not rows:
            yield find(self.query, "annotation", "a row always, as @always says", "no row")
