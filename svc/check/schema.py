"""The live schema, as far as the proofs look at it: all of PostgreSQL's catalog that a statement may name."""

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import asyncpg
from msgspec import Struct, structs

from svc.check.catalog import AnalysisQueries, Routine, TableConstraint
from svc.check.scratch import ScratchConnection
from svc.check.tree import Node, parse_queries, parse_tree, walk
from svc.postgres.catalog import CatalogQueries, Column, UniqueKey

K = TypeVar("K")
V = TypeVar("V")

Key = tuple[str, str]
"""Two numbers, as trees write them: a relation's with that of a column, or of a kind of statement."""


class Catalog(Struct, frozen=True):
    """What the analysis looks at. Numbers are text, as in trees."""

    columns: Mapping[Key, Column]
    tables: Mapping[str, str]
    """The names of our tables and views."""
    unique: Mapping[str, list[UniqueKey]]
    functions: Mapping[str, str]
    operators: Mapping[str, str]
    constraints: Mapping[str, list[str]]
    routines: Mapping[str, Routine]
    parents: Mapping[str, list[str]]
    expressions: Mapping[Key, Node]
    references: Mapping[Key, list[Key]]
    views: dict[str, Node]
    """The queries of views, more of them as statements name them."""
    opened: dict[Any, Any]
    """The scopes of those, and of functions, that were looked at: see `open_view` and `open_body`."""
    materialized: frozenset[str]
    types: Mapping[str, str]
    """The names of all types; an array's begins with `_` or ends in `[]`."""
    arrays: frozenset[str]
    """The types that are arrays."""
    altering: frozenset[Key]
    """Each relation and statement of which something else decides, too, what is written."""

    def loosen(self, names: Sequence[str]) -> "Iterator[tuple[str, Catalog]]":
        """Yield each of these columns that is never null, with a catalog in which it may be."""
        for key, column in self.columns.items():
            if column.own and column.not_null and str(column) in names:
                columns = ChainMap(
                    {key: structs.replace(column, not_null=False)},
                    cast("dict[Key, Column]", self.columns),
                )
                yield str(column), structs.replace(self, columns=columns, opened={})


async def read_catalog(connection: ScratchConnection) -> Catalog:
    """Read what the analysis looks at, and the queries of our views."""
    queries, stored = AnalysisQueries.bind(connection), CatalogQueries.bind(connection)
    routines = [await read_body(connection, routine) for routine in await queries.list_routines()]
    columns, types = await stored.list_columns(system=True), await queries.list_types()
    catalog = Catalog(
        columns={(str(c.relation), str(c.number)): c for c in columns},
        tables={str(c.relation): c.table_name for c in columns if c.own},
        unique=group((str(key.relation), key) for key in await stored.list_unique_keys(system=True)),
        functions={str(function.number): function.name for function in await queries.list_functions()},
        operators={str(operator.number): operator.name for operator in await queries.list_operators()},
        constraints=group_constraints(await queries.list_constraints()),
        routines={str(routine.number): routine for routine in routines},
        parents=group((str(each.relation), str(each.parent)) for each in await queries.list_parents()),
        expressions={
            (str(each.relation), str(each.number)): parse_tree(each.tree)
            for each in await queries.list_expressions()
        },
        references=group(
            ((str(each.relation), str(each.number)), (str(each.referred), str(each.other)))
            for each in await queries.list_references()
        ),
        views={},
        opened={},
        types={str(type_.number): type_.name for type_ in types},
        arrays=frozenset(str(type_.number) for type_ in types if type_.is_array),
        altering=frozenset(
            (str(each.relation), str(each.statement)) for each in await queries.list_altering()
        ),
        materialized=frozenset(map(str, await queries.list_views_of(kind="m"))),
    )
    views = set(map(str, await queries.list_views_of(kind="v")))
    await read_views(queries, catalog, views | catalog.materialized)
    return catalog


def group(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Return the values of each key."""
    grouped: dict[K, list[V]] = {}
    for key, value in pairs:
        grouped.setdefault(key, []).append(value)
    return grouped


def group_constraints(constraints: Sequence[TableConstraint]) -> dict[str, list[str]]:
    """Return the names of the constraints that a change of each table may break, by the table's number."""
    return group(
        (str(relation), constraint.name)
        for constraint in constraints
        for relation in {constraint.relation, constraint.referred} - {None}
    )


async def read_views(queries: AnalysisQueries, catalog: Catalog, relations: set[str]) -> None:
    """Read the queries of views, and of the views that these name, unless they are known."""
    while missing := relations - catalog.views.keys():
        found = {str(v.relation): v.tree for v in await queries.list_views(relations=[*map(int, missing)])}
        catalog.views.update({number: parse_queries(tree)[0] for number, tree in found.items()})
        relations = find_views([catalog.views[number] for number in found])


def find_views(queries: Sequence[Node]) -> set[str]:
    """Return the numbers of the views that queries name."""
    entries = (node for query in queries for node in walk(query) if node[""] == "RANGETBLENTRY")
    return {entry["relid"] for entry in entries if entry["rtekind"] == "0" and entry["relkind"] in ("v", "m")}


async def read_body(connection: ScratchConnection, routine: Routine) -> Routine:
    """Return a function in SQL with its body as a tree: of a text, PostgreSQL makes one where it can."""
    if routine.language != "sql" or routine.tree or not routine.plain:
        return routine
    body = routine.source.strip().removesuffix(";")
    try:
        tree = await read_tree(connection, body, routine.arguments or "", routine.result or "void")
    except asyncpg.PostgresError:  # polymorphic, or of a table that is gone: its text is looked at
        return routine
    return structs.replace(routine, tree=tree)


async def read_tree(connection: ScratchConnection, body: str, arguments: str, result: str = "void") -> str:
    """Return statements as PostgreSQL has analysed them, out of a function that is there for a moment.

    Raises asyncpg.PostgresError where a function can hold no such statement.
    """
    async with connection.undone():
        head = f"create function pg_temp.proof({arguments}) returns {result}"
        await connection.execute(f"{head} begin atomic {body}; end")
        return await AnalysisQueries.bind(connection).get_function_body(name="proof") or ""
