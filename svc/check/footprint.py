"""What a query does: the columns that it reads and sets, the keys, functions and views that it relies on."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from svc.check.catalog import Routine
from svc.check.kinds import Permission
from svc.check.schema import Catalog, find_views
from svc.check.scope import Scope
from svc.check.tree import Node, listed, parse_tree, walk
from svc.postgres.catalog import Column, Fact
from svc.postgres.proven import FUNCTION, INDEX, KEY, NOT_NULL, TYPE, VIEW, Footprint

PRIVILEGE_OFFSET = 7
"""What PostgreSQL adds to a column's number in its sets of used columns (access/sysattr.h)."""

WHOLE_ROW = "0"

CALLS = {
    "FUNCEXPR": "funcid",
    "OPEXPR": "opfuncid",
    "DISTINCTEXPR": "opfuncid",
    "NULLIFEXPR": "opfuncid",
    "SCALARARRAYOPEXPR": "opfuncid",
    "AGGREF": "aggfnoid",
    "WINDOWFUNC": "winfnoid",
}
"""The field that has the function's number, by the node that calls one."""


def find_footprint(scope: Scope, keys: Iterable[str]) -> Footprint:
    """Return what a query does, in views as well; `keys` are those that bound it to one row."""
    catalog, names = scope.catalog, {f"{KEY}{key}" for key in keys}
    trees, views = open_views(catalog, scope.query)
    footprint = Footprint(names=[f"{VIEW}{view}" for view in views])
    for node in (node for tree in trees for node in walk(tree)):
        if node[""] == "RTEPERMISSIONINFO" and node["relid"] in catalog.tables:
            names.update(map(str, find_columns(catalog, node, "selectedCols")))
            add_permission(footprint, catalog, node)
        elif node[""] == "QUERY" and node["onConflict"]:
            names.update(find_arbiters(catalog, node))
    for relation in sorted(find_referring(catalog, footprint.deletes)):
        footprint.walks.setdefault(relation, [])
    constraints = set(find_breakable(catalog, scope.query))
    functions = find_functions(catalog, [*trees, *find_defaults(catalog, footprint)])
    names.update(f"{FUNCTION}{routine.signature}" for routine in functions)
    footprint.names.extend(sorted(names))
    footprint.constraints.extend(sorted(constraints))
    return footprint


def open_views(catalog: Catalog, query: Node) -> tuple[list[Node], list[str]]:
    """Return a query with those of the views that it names, however deep; and the names of these."""
    trees, waiting, names = [query], find_views([query]), set[str]()
    seen = set[str]()
    while waiting:
        relation = waiting.pop()
        if relation in catalog.views and relation not in seen:
            seen.add(relation)
            trees.append(catalog.views[relation])
            waiting |= find_views([catalog.views[relation]])
            names |= {catalog.tables[relation]} if relation in catalog.tables else set()
    return trees, sorted(names)


def add_permission(footprint: Footprint, catalog: Catalog, node: Node) -> None:
    """Add what a query may do to one relation."""
    required, relation = Permission(int(node["requiredPerms"])), catalog.tables[node["relid"]]
    lists = {Permission.SELECT: footprint.reads, Permission.DELETE: footprint.deletes}
    for permission, relations in lists.items():
        if permission in required and relation not in relations:
            relations.append(relation)
    for permission, changes, field in (
        (Permission.INSERT, footprint.inserts, "insertedCols"),
        (Permission.UPDATE, footprint.updates, "updatedCols"),
    ):
        if permission in required:
            known = changes.setdefault(relation, [])
            known.extend(c.name for c in find_columns(catalog, node, field) if c.name not in known)


def find_columns(catalog: Catalog, node: Node, field: str) -> Iterator[Column]:
    """Yield the columns in a set of used ones: a whole row is all of them."""
    for each in node[field]:
        number = str(int(each) - PRIVILEGE_OFFSET)
        if number == WHOLE_ROW:
            yield from (
                column for (relation, _), column in catalog.columns.items() if relation == node["relid"]
            )
        elif column := catalog.columns.get((node["relid"], number)):
            yield column


def find_referring(catalog: Catalog, deletes: Sequence[str]) -> set[str]:
    """Return the tables in which a delete looks for rows that refer to what is deleted."""
    return {
        catalog.tables[relation]
        for (relation, _), referred in catalog.references.items()
        if relation in catalog.tables and any(catalog.tables.get(other) in deletes for other, _ in referred)
    }


def find_arbiters(catalog: Catalog, query: Node) -> Iterator[str]:
    """Yield the keys that `on conflict (…)` needs."""
    relation = query["rtable"][int(query["resultRelation"]) - 1]["relid"]
    parts = [element["expr"] for element in listed(query["onConflict"]["arbiterElems"])]
    named = {catalog.columns[relation, part["varattno"]].name for part in parts if part[""] == "VAR"}
    for key in catalog.unique.get(relation, ()) if parts else ():
        if named == {*key.columns}:
            yield f"{KEY}{key}"


def find_breakable(catalog: Catalog, query: Node) -> Iterator[str]:
    """Yield the constraints that a query may break: those of the tables that it changes."""
    for node in walk(query):
        if node[""] == "QUERY" and node["resultRelation"] != "0":
            changed = node["rtable"][int(node["resultRelation"]) - 1]
            yield from catalog.constraints.get(changed["relid"], ())


def find_defaults(catalog: Catalog, footprint: Footprint) -> Iterator[Node]:
    """Yield the defaults of the columns that an insert leaves out, and what is computed of the others."""
    for (relation, number), expression in catalog.expressions.items():
        column = catalog.columns.get((relation, number))
        inserted = footprint.inserts.get(column.table_name) if column else None
        if column and inserted is not None and column.name not in inserted:
            yield expression


def find_functions(catalog: Catalog, trees: Iterable[Node]) -> list[Routine]:
    """Return the functions of ours that trees call, and those that these call."""
    found: dict[str, Routine] = {}
    waiting = [number for tree in trees for number in find_calls(tree)]
    while waiting:
        number = waiting.pop()
        if (routine := catalog.routines.get(number)) and number not in found:
            found[number] = routine
            waiting += [str(part) for part in routine.parts]
            waiting += read_calls(routine.tree) if routine.tree else find_named(catalog, routine)
    return [*found.values()]


@cache
def read_calls(tree: str) -> list[str]:
    """Return the numbers of the functions that the body of one calls."""
    return [*find_calls(parse_tree(tree))]


def find_calls(tree: Node) -> Iterator[str]:
    """Yield the numbers of the functions that a tree calls."""
    return (node[CALLS[node[""]]] for node in walk(tree) if node[""] in CALLS)


def find_named(catalog: Catalog, routine: Routine) -> list[str]:
    """Return the functions whose names are words of a function's text, where that is all that can be read."""
    words = {*re.findall(r"\w+", routine.source)}
    return [number for number, other in catalog.routines.items() if other.name in words]


def complete(footprint: Footprint, facts: Sequence[Fact], walked: Iterable[str]) -> Iterator[str]:
    """Add to a footprint the types of its columns, and the indexes that it walks: their names are `walked`.

    Yield the foreign keys that no index supports, so that each delete reads a whole table.
    """
    types = {
        f"{TYPE}{fact.text.removesuffix(NOT_NULL)}"
        for fact in facts
        if fact.name in footprint.names or footprint.sets(fact)
    }
    footprint.names.extend(
        sorted({fact.name for fact in facts} & {name.removesuffix("[]") for name in types})
    )
    for index in (fact for fact in facts if fact.name.startswith(INDEX) and fact.text in walked):
        add_walk(footprint, index)
    deleting = {fact.name for fact in facts if "delete" in fact.events and footprint.relies_on(fact)}
    for key in facts:
        if key.name in deleting and "insert" in key.events:
            supporting = [
                fact for fact in facts if fact.relation == key.relation and is_led_by(fact, key.columns)
            ]
            yield from () if supporting else [f"{key.relation} ({', '.join(key.columns)})"]
            for index in supporting[:1]:
                add_walk(footprint, index)


def add_walk(footprint: Footprint, index: Fact) -> None:
    """Add an index to those that a query walks."""
    walks = footprint.walks.setdefault(index.relation, [])
    definition = index.name.removeprefix(f"{INDEX}{index.relation} ")
    if definition not in walks:
        walks.append(definition)


def is_led_by(fact: Fact, columns: Sequence[str]) -> bool:
    """Return whether a fact is an index that finds rows by these columns, in whatever order."""
    leading = fact.columns[: len(columns)]
    return (
        fact.name.startswith(INDEX)
        and fact.applies
        and {*leading} == {*columns}
        and " WHERE " not in fact.name
    )
