"""Whether a query can give more than one row."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from svc.check.scope import CTE, RELATION, SUBQUERY, Scope
from svc.check.tree import Node, conjuncts, read_bytes, relabelled, walk_own

INSERT = "3"
LEFT, RIGHT = "1", "3"
VALUES, RESULT = "5", "8"


def is_single(scope: Scope, used: set[str]) -> bool:
    """Return whether there is at most one row: by a limit, an aggregate, no table, or a unique key for each.

    The keys that were needed for it go into `used`.
    """
    query = scope.query
    if query["hasTargetSRFs"] == "true":
        return has_limit_one(query)
    if query["commandType"] == INSERT:
        return inserts_one(scope, used)
    if query["setOperations"]:
        return has_limit_one(query)
    aggregate = query["hasAggs"] == "true" and not query["groupClause"] and not query["groupingSets"]
    return has_limit_one(query) or aggregate or joins_one(scope, used)


def has_limit_one(query: Node) -> bool:
    """Return whether it has `limit 1` or `limit 0`, written out: a constant, perhaps cast."""
    if query["limitOption"] != "0":  # with ties
        return False
    constants = [
        node for node in walk_own(query["limitCount"]) if node[""] in ("CONST", "PARAM", "VAR", "OPEXPR")
    ]
    if len(constants) != 1 or constants[0].get("constisnull") != "false":
        return False
    return int.from_bytes(read_bytes(constants[0]), "little") <= 1


def inserts_one(scope: Scope, used: set[str]) -> bool:
    """Return whether an insert is of `values` with one row, or of a sub-query of one."""
    sources = [scope.entry(number) for number in references(scope.query["jointree"])]
    for entry in sources:
        if entry["rtekind"] == VALUES and len(entry["values_lists"]) > 1:
            return False
        inner = scope.inner(entry)
        if inner and not is_single(inner, used):
            return False
    return all(entry["rtekind"] in (SUBQUERY, VALUES, CTE, RESULT) for entry in sources)


def joins_one(scope: Scope, used: set[str]) -> bool:
    """Return whether, in some order, each table is held to one row by values that are known before it."""
    conditions = list(find_conditions(scope.query["jointree"]))
    waiting, single = references(scope.query["jointree"]), set[str]()
    while found := {n for n in waiting if entry_is_single(scope, n, conditions, single, used)}:
        single |= found
        waiting -= found
    return not waiting


class Condition(NamedTuple):
    """What holds for every row; in an outer join's `on` only for the entries of the side that it pads."""

    expression: Node
    entries: set[str]


def references(tree: Any) -> set[str]:
    """Return the entries that are joined."""
    return {node["rtindex"] for node in walk_own(tree) if node[""] == "RANGETBLREF"}


def find_conditions(tree: Any) -> Iterator[Condition]:
    """Yield every part of `where` and `on`, with the entries that it can bound."""
    for node in walk_own(tree):
        if node[""] == "FROMEXPR":
            bounded = references(node["fromlist"])
        elif node[""] == "JOINEXPR":
            sides = {"0": ("larg", "rarg"), LEFT: ("rarg",), RIGHT: ("larg",)}.get(node["jointype"], ())
            bounded = set[str]().union(*(references(node[side]) for side in sides))
        else:
            continue
        for expression in conjuncts(node["quals"]):
            yield Condition(expression, bounded)


def entry_is_single(
    scope: Scope, number: str, conditions: list[Condition], single: set[str], used: set[str]
) -> bool:
    """Return whether an entry has at most one row for each row of the entries in `single`."""
    entry = scope.entry(number)
    if entry["rtekind"] == RELATION:
        columns = scope.catalog.columns
        numbers = fixed_columns(scope, number, conditions, single)
        fixed = {column.name for n in numbers if (column := columns.get((entry["relid"], n)))}
        key = next(
            (key for key in scope.catalog.unique.get(entry["relid"], []) if set(key.columns) <= fixed), None
        )
        used |= {str(key)} if key else set()
        return key is not None
    inner = scope.inner(entry)
    return entry["rtekind"] == RESULT or (inner is not None and is_single(inner, used))


def fixed_columns(scope: Scope, number: str, conditions: list[Condition], single: set[str]) -> Iterator[str]:
    """Yield the columns of an entry that an equality sets to something known."""
    for expression, entries in conditions:
        equality = expression[""] == "OPEXPR" and scope.catalog.operators.get(expression["opno"]) == "="
        if number not in entries or not equality:
            continue
        left, right = map(relabelled, expression["args"])
        for column, value in ((left, right), (right, left)):
            ours = column[""] == "VAR" and (column["varno"], column["varlevelsup"]) == (number, "0")
            if ours and is_known(value, single):
                yield column["varattno"]


CALLS = ("FUNCEXPR", "SUBLINK", "QUERY", "NEXTVALUEEXPR")


def is_known(value: Node, single: set[str]) -> bool:
    """Return whether a value is one for all rows of an entry: of parameters, constants, entries with one row.

    What a function gives may differ from row to row.
    """
    nodes = list(walk_own(value))
    return all(
        node[""] not in CALLS and (node[""] != "VAR" or node["varlevelsup"] != "0" or node["varno"] in single)
        for node in nodes
    )
