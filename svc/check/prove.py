"""Proves one query on a live schema: it prepares, and its parameters, columns and rows are as declared."""

import re
import traceback
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from types import GenericAlias
from typing import Any, get_args, get_origin, get_type_hints

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from msgspec import Struct, structs

from svc.check.arrays import Array, find_unnested, has_one_row, is_nested, read_array, read_inner_array
from svc.check.catalog import AnalysisQueries
from svc.check.findings import Finding, Kind, find, find_column, find_parameter, find_position
from svc.check.footprint import find_footprint
from svc.check.nulls import Nulls
from svc.check.rows import is_present, is_single
from svc.check.schema import Catalog, find_views, read_catalog, read_tree, read_views
from svc.check.scope import Parameters, Scope
from svc.check.scratch import ScratchConnection
from svc.check.secrets import Secrets
from svc.check.tree import parse_queries
from svc.check.types import describe, fits, fits_in_json, split_optional, split_secret
from svc.postgres.mapping import find_struct, is_struct
from svc.postgres.proven import Footprint
from svc.postgres.queries import Signature
from svc.postgres.statements import Query

EXPLAIN = re.compile(r"explain\s*(\([^)]*\)\s*)?", re.IGNORECASE)

ON_TABLE = re.compile(r"(?:analyze|truncate|lock\s+table)\s+(\w+)[^,()]*", re.IGNORECASE)
"""Statements that PostgreSQL does not analyse before they run."""


class Schema(Struct, frozen=True):
    """A live schema as it was when it was read."""

    catalog: Catalog
    secrets: Secrets
    nulls: Nulls
    labels: Mapping[str, list[str]]


async def read_schema(connection: ScratchConnection) -> Schema:
    """Read what the proofs look at."""
    catalog = await read_catalog(connection)
    enums = await AnalysisQueries.bind(connection).list_enum_labels()
    return Schema(catalog, Secrets(catalog), Nulls(), {enum.name: enum.labels for enum in enums})


class Proof:
    """One query on one schema."""

    def __init__(
        self, connection: ScratchConnection, schema: Schema, query: Query, signature: Signature
    ) -> None:
        self.connection = connection
        self.schema = schema
        self.secrets = schema.secrets
        self.query = query
        self.signature = signature
        self.parameters = declared_parameters(query, signature)
        self.footprint = Footprint()

    async def run(self) -> list[Finding]:
        """Find what shows without running it."""
        try:
            return await self._run()
        except (LookupError, TypeError, ValueError, RecursionError) as error:  # a tree that is read wrongly
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error}, in {Path(where.filename).name}:{where.lineno}"
            return [find(self.query, "sql", "a statement that the check can follow; please report it", said)]

    async def _run(self) -> list[Finding]:
        try:
            statement = await self.connection.prepare(self.query.sql)
        except asyncpg.PostgresError as error:
            return [self._explain(error)]
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:  # JSON in a row, for one
            return [find(self.query, "sql", "types that the driver reads", str(error))]
        found = [*self._check_annotations(statement), *self._check_parameters(statement)]
        try:
            scope = await self._analyse(statement)
        except asyncpg.PostgresError as error:
            expected = (
                "select, insert, update, delete, merge, explain of one, analyze, truncate or lock table"
            )
            return [*found, find(self.query, "sql", expected, str(error.args[0]))]
        found += self._check_unnested(scope)
        found += self._check_columns(statement, scope)
        found += self._check_secrets(scope)
        keys: set[str] = set()
        found += self._check_cardinality(scope, keys)
        self.footprint = find_footprint(scope, keys)
        self.footprint.not_null.extend(self._find_needed(statement, scope))
        self.footprint.nulls.extend(sorted(self.schema.nulls.find_written(scope)))
        return found

    def _find_needed(self, statement: "PreparedStatement[Any]", scope: Scope) -> Iterator[str]:
        """Yield the columns that must not be null for the row to be as it is declared.

        What a mark says of a column rests on what its functions are given: they are trusted here.
        """
        schema = structs.replace(self.schema, nulls=Nulls(trusting=True))
        query = structs.replace(self.query, annotations={})
        trusting = Proof(self.connection, schema, query, self.signature)
        as_it_is = [*trusting._check_columns(statement, scope)]
        for name, catalog in scope.catalog.loosen(self.footprint.names):
            if [
                *trusting._check_columns(statement, Scope(scope.query, catalog, scope.parameters))
            ] != as_it_is:
                yield name

    def _check_cardinality(self, scope: Scope, keys: set[str]) -> Iterator[Finding]:
        explained = EXPLAIN.match(self.query.sql)  # a plan is one row, whatever it is of
        if self.query.kind == "columns" and not has_one_row(scope):
            yield find(self.query, "cardinality", "one row: aggregates of all rows", "none, or several")
        if self.query.kind != "one" or explained:
            return
        if not is_single(scope, keys):
            expected = "at most one row: a unique key, `limit 1` or an aggregate"
            yield find(self.query, "cardinality", expected, "any number of rows")
        marked, present = "always" in self.query.annotations, is_present(scope)
        if not (self.signature.optional or marked or present):
            expected = "a row always, a result that may be None, or a mark: -- @always"
            yield find(self.query, "cardinality", expected, "no row perhaps")
        if marked and (present or self.signature.optional):
            expected = "no @always: there is a row" if present else "no @always, as the result may be None"
            yield find(self.query, "annotation", expected, "@always", warning=True)

    def _explain(self, error: asyncpg.PostgresError) -> Finding:
        position = getattr(error, "position", None)
        at = find_position(self.query, int(position)) if position else None
        return find(self.query, "sql", "a statement that prepares", f"{error.sqlstate} {error.args[0]}", at)

    def _check_annotations(self, statement: "PreparedStatement[Any]") -> Iterator[Finding]:
        for annotation, said in self.query.annotations.items():
            names = [attribute.name for attribute in statement.get_attributes()]
            named = said.replace(",", " ").split()
            if annotation not in ANNOTATIONS:
                expected = f"{', '.join(f'@{name}' for name in ANNOTATIONS)}"
                yield find(self.query, "annotation", expected, f"@{annotation}")
            elif annotation == "unindexed":
                yield from self._check_unindexed(said)
            elif annotation == "may_fail" and not (said and ON_TABLE.fullmatch(self.query.sql)):
                expected = "@may_fail: why, of a statement that only running tells of"
                yield find(self.query, "annotation", expected, said or "no reason")
            elif annotation == "not_null" and (
                not named or not {name.removesuffix("[]") for name in named} <= set(names)
            ):
                yield find(self.query, "annotation", f"columns out of {', '.join(names)}", said or "none")

    def _check_unindexed(self, said: str) -> Iterator[Finding]:
        marked = read_marks(said)
        if not marked or not marked <= {*self.query.parameters} or "hot" not in self.query.annotations:
            expected = (
                f"@unindexed: parameters: why, of a query that is @hot; {', '.join(self.query.parameters)}"
            )
            yield find(self.query, "annotation", expected, said or "nothing")

    def _check_parameters(self, statement: "PreparedStatement[Any]") -> Iterator[Finding]:
        for name, type_ in zip(self.query.parameters, statement.get_parameters(), strict=True):
            bare, _ = split_optional(self.parameters[name])
            if not fits(bare, type_.name, self._labels(type_), into_database=True):
                yield find(
                    self.query,
                    "parameter",
                    f"{name}: {describe(self.parameters[name])} that fits {type_.name}",
                    f"{type_.name} in the SQL",
                    find_parameter(self.query, name),
                )

    @property
    def _not_null(self) -> list[str]:
        return self.query.annotations.get("not_null", "").replace(",", " ").split()

    def _labels(self, type_: Any) -> list[str] | None:
        return self.schema.labels.get(type_.name.removesuffix("[]"))

    def _check_unnested(self, scope: Scope) -> Iterator[Finding]:
        """Find lists of fields that become columns of other names: `unnest` goes by their places."""
        for number, column in find_unnested(scope):
            name = self.query.parameters[number - 1]
            outer, _, field = name.partition(".")
            if get_origin(self.signature.parameters[outer]) is list and field not in ("", column):
                at = find_parameter(self.query, name)
                yield find(self.query, "parameter", f"a column {field} out of :{name}", column, at)

    async def _analyse(self, statement: "PreparedStatement[Any]") -> Scope:
        """Read the query's tree out of a function that holds it for a moment."""
        types = ", ".join(type_name(type_) for type_ in statement.get_parameters())
        tree = await read_tree(self.connection, find_body(self.query.sql), types)
        (parsed,) = parse_queries(tree)
        queries = AnalysisQueries.bind(self.connection)
        await read_views(queries, self.schema.catalog, find_views([parsed]))
        return Scope(parsed, self.schema.catalog, self._read_parameters())

    def _read_parameters(self) -> Parameters:
        """Return which parameters may be null, and which may hold one."""
        types = {str(n): self.parameters[name] for n, name in enumerate(self.query.parameters, 1)}
        bare = {number: split_optional(type_) for number, type_ in types.items()}
        return Parameters(
            frozenset(number for number, (_, optional) in bare.items() if optional),
            frozenset(
                number
                for number, (type_, _) in bare.items()
                if get_origin(type_) is list and split_optional(get_args(type_)[0])[1]
            ),
        )

    def _check_columns(self, statement: "PreparedStatement[Any]", scope: Scope) -> Iterator[Finding]:
        attributes = statement.get_attributes()
        fields = declared_columns(self.signature)
        names = [attribute.name for attribute in attributes]
        if self.signature.columns is not None and tuple(names) != self.signature.columns:
            expected = f"{self.signature.row.__name__}({', '.join(self.signature.columns)})"
            yield find(self.query, "column", expected, ", ".join(names) or "no columns")
            return
        if self.signature.row is None or self.query.kind == "execrows":
            return
        if len(names) != len(fields):
            yield find(self.query, "column", "one column", ", ".join(names) or "no columns")
            return
        for index, (attribute, type_) in enumerate(zip(attributes, fields.values(), strict=True)):
            check = self._check_array if self.query.kind == "columns" else self._check_column
            yield from check(scope, index, attribute, type_)
        if self.signature.nested:
            yield from self._check_places(scope)

    def _check_column(self, scope: Scope, index: int, attribute: Any, type_: Any) -> Iterator[Finding]:
        name, given = attribute.name, attribute.type
        bare, _ = split_secret(split_optional(type_)[0])
        if not fits(bare, given.name, self._labels(given), into_database=False):
            yield self._differ(name, f"{describe(type_)} that fits {given.name}", f"{given.name} in the SQL")
        if EXPLAIN.match(self.query.sql):
            return
        yield from self._check_nullability(self.schema.nulls.of_column(scope, index), name, type_)
        if get_origin(bare) is list and given.kind == "array":
            yield from self._check_elements(scope, index, name, bare)

    def _check_elements(self, scope: Scope, index: int, name: str, type_: Any) -> Iterator[Finding]:
        """Find nulls, and arrays, in an array that becomes a list."""
        _, optional = split_optional(get_args(type_)[0])
        if (
            scope.targets
            and not scope.query["setOperations"]
            and is_nested(scope, scope.targets[index]["expr"])
        ):
            yield self._differ(name, f"{describe(type_)}, of one dimension", "an array of arrays")
        held, annotated = self.schema.nulls.in_column(scope, index), f"{name}[]" in self._not_null
        if held and not optional and not annotated:
            yield self._differ(name, describe(type_), f"{name} may hold a null", "nullability")

    def _check_array(self, scope: Scope, index: int, attribute: Any, type_: Any) -> Iterator[Finding]:
        """Find what is wrong with a column that holds a field of all rows, or of each list of them."""
        name, given = attribute.name, attribute.type
        bare, optional = split_optional(type_)
        array = read_array(scope, scope.targets[index]["expr"])
        inner = read_inner_array(array) if array and self.signature.nested else array
        if wrong := self._misfit(split_secret(bare)[0], given, inner):
            yield self._differ(name, f"an array of {describe(type_)}", wrong)
        elif array is None or inner is None:
            expected = "an element for each row: array_agg without order by, distinct or a filter of rows"
            yield self._differ(name, expected, "another array")
        elif (array.may_lack and self.signature.nested) or (inner.may_lack and (not optional or index == 0)):
            coalesced = "coalesce(…, '[]')" if given.name == "json" else "coalesce(…, '{}')"
            expected = coalesced if optional or inner.element else describe(type_)
            yield self._differ(name, expected, f"{name} may be null as a whole", "nullability")
        else:
            yield from self._check_nullability(inner.may_hold_null(self.schema.nulls), name, type_)

    def _misfit(self, type_: Any, given: Any, array: Array | None) -> str | None:
        """Return what a list is of, if that does not fit a field; lists of lists are JSON."""
        if given.name == "json":
            name = self.schema.catalog.types.get(array.type, "") if array else ""
            fitting = not name or fits_in_json(type_, name, self.schema.labels.get(name))
            if array and name in ("json", "jsonb") and array.element:  # whose null would be the other one
                fitting &= not self.schema.nulls.of(array.scope, array.element)
            return None if fitting else f"{name} in the SQL"
        element = given.name.removesuffix("[]")
        fitting = fits(type_, element, self._labels(given), into_database=False)
        is_list = given.kind == "array" and not self.signature.nested
        return None if is_list and fitting else f"{given.name} in the SQL"

    def _check_places(self, scope: Scope) -> Iterator[Finding]:
        """Find lists of lists whose inner ones are not of the same rows, or are of groups of them."""
        arrays = [read_array(scope, target["expr"]) for target in scope.targets]
        owners = {inner.scope for array in arrays if array and (inner := read_inner_array(array))}
        if len(owners) > 1:
            yield find(self.query, "column", "lists of one sub-query", "lists of several")
        if not all(map(has_one_row, owners)):
            expected = "one row for each list: aggregates of all its rows"
            yield find(self.query, "cardinality", expected, "none, or several")

    def _differ(self, name: str, expected: str, found: str, kind: Kind = "column") -> Finding:
        at = find_column(self.query, name)
        return find(self.query, kind, f"{name}: {expected}", found, at)

    def _check_nullability(self, nullable: bool, name: str, type_: Any) -> Iterator[Finding]:
        _, optional = split_optional(type_)
        label, at = f"{name}: {describe(type_)}", find_column(self.query, name)
        annotated = name in self._not_null
        if annotated and not nullable:
            yield find(
                self.query,
                "annotation",
                f"no annotation: {name} is never null",
                "@not_null",
                at,
                warning=True,
            )
        if nullable and not optional and not annotated:
            yield find(self.query, "nullability", label, f"{name} may be null", at)
        never = annotated or (self.query.reads and not nullable)  # a change may return what it is given
        if optional and is_struct(self.signature.row) and never:
            yield find(self.query, "nullability", label, f"{name} is never null", at, warning=True)

    def _check_secrets(self, scope: Scope) -> Iterator[Finding]:
        """Find secrets that come out, are written where all can read them, or decide which rows there are."""
        marked, used = read_marks(self.query.annotations.get("secret")), set[str]()
        fields = list(declared_columns(self.signature).values())
        explained = EXPLAIN.match(self.query.sql)  # a plan has expressions, and no values
        for index, target in enumerate([] if explained else scope.targets):
            found = self.secrets.of_column(scope, index)
            used |= found
            type_, is_secret = split_secret(split_optional(fields[index])[0] if index < len(fields) else None)
            if bare := find_unmarked(found, marked):
                yield self._leak(f"{target['resname']} is made of {bare}")
            elif bool(found) != is_secret and self.signature.row is not None:
                wanted = "Secret[…], which shows itself nowhere" if found else describe(type_)
                yield self._differ(target["resname"], wanted, "a secret" if found else "no secret column")
        for each in scope.walk():
            for column, found in self.secrets.find_writings(each):
                yield self._leak(f"{column}, which is no secret, is set to {', '.join(sorted(found))}")
            found = self.secrets.of_rows(each)
            used |= found
            if bare := find_unmarked(found, marked):
                yield self._leak(f"rows are chosen, ordered, counted or grouped by {bare}")
        yield from self._check_marks(marked, used)

    def _check_marks(self, marked: Set[str] | None, used: Set[str]) -> Iterator[Finding]:
        if marked is None:
            yield find(self.query, "annotation", "@secret: column, column: why", "no reason")
        elif needless := marked - {name for each in used for name in (each, each.rpartition(".")[2])}:
            expected = "@secret of columns that it reads, orders, groups or compares"
            yield find(self.query, "annotation", expected, ", ".join(sorted(needless)))

    def _leak(self, found: str) -> Finding:
        names = {name for each in self.secrets.all for name in [each.rpartition(".")[2]] if name in found}
        at = next((at for name in sorted(names) if (at := find_column(self.query, name)) is not None), None)
        return find(self.query, "secret", "no secret, or a mark: -- @secret: column: why", found, at)


ANNOTATIONS = ("hot", "not_null", "always", "secret", "unindexed", "may_fail")
"""What may stand in a query's header."""

MARKS = re.compile(r"([\w., ]+):\s*\S.*")


def read_marks(said: str | None) -> Set[str] | None:
    """Return the columns, or parameters, that a mark names; None without a reason."""
    if said is None:
        return set()
    named = MARKS.fullmatch(said)
    return set(named[1].replace(",", " ").split()) if named else None


def find_unmarked(found: Set[str], marked: Set[str] | None) -> str:
    """Return the secrets that no mark names, in order."""
    known = marked or set()
    return ", ".join(sorted(each for each in found if not {each, each.rpartition(".")[2]} & known))


def find_body(sql: str) -> str:
    """Return what a function can hold of a statement: what it explains, or a look at its table."""
    if on_table := ON_TABLE.fullmatch(sql):
        return f"select from {on_table[1]}"
    return EXPLAIN.sub("", sql, count=1) if EXPLAIN.match(sql) else sql


def type_name(type_: Any) -> str:
    """Return a type as SQL writes it."""
    name = type_.name.removesuffix("[]")
    return f'"{type_.schema}"."{name}"' + ("[]" if type_.kind == "array" else "")


def declared_parameters(query: Query, signature: Signature) -> dict[str, Any]:
    """Return the Python type of each parameter of the SQL: a field of a list of structs is a list."""
    types: dict[str, Any] = {}
    for name in query.parameters:
        outer, _, field = name.partition(".")
        type_ = signature.parameters[outer]
        if struct := find_struct(type_):
            hint = get_type_hints(struct, include_extras=True)[field]
            type_ = GenericAlias(list, (hint,)) if get_origin(type_) is list else hint
        types[name] = type_
    return types


def declared_columns(signature: Signature) -> dict[str, Any]:
    """Return the Python type of each column of a row; a scalar's is called `value`."""
    if is_struct(signature.row):
        return get_type_hints(signature.row, include_extras=True)
    return {"value": signature.row | None if signature.optional else signature.row}
