"""How many rows a query gives: at most one, at least one."""

from collections.abc import Iterator, Sequence, Set
from typing import Any, NamedTuple

from svc.check.kinds import Entry, Statement
from svc.check.scope import Scope
from svc.check.tree import Node, conjuncts, listed, read_bytes, relabelled, walk_own

LEFT, RIGHT = "1", "3"
"""Kinds of joins."""

BY_SOURCE, UNION, NOTHING, SKIP_LOCKED = "1", "1", "1", "1"
"""An action of a merge for what no row of the source matches; a set operation; what an insert does where a
row is there already; what a lock does where somebody else has one."""

# At most one


def is_single(scope: Scope, used: set[str]) -> bool:
    """Return whether there is at most one row: by a limit, an aggregate, no table, or a unique key for each.

    The keys that were needed for it go into `used`.
    """
    if scope.single is None:
        keys = set[str]()
        scope.single = prove_single(scope, keys), keys
    single, keys = scope.single
    used |= keys
    return single


def prove_single(scope: Scope, used: set[str]) -> bool:
    """Return the same, not yet known."""
    query = scope.query
    if has_limit_one(scope):
        return True
    if query["hasTargetSRFs"] == "true" or query["setOperations"] or query["groupingSets"]:
        return False
    if query["commandType"] == Statement.INSERT:
        return inserts_one(scope, used)
    if query["commandType"] == Statement.MERGE:
        return merges_one(scope, used)
    return is_aggregate(query) or joins_one(scope, used)


def is_aggregate(query: Node) -> bool:
    """Return whether all rows become one."""
    return query["hasAggs"] == "true" and not query["groupClause"] and not query["groupingSets"]


def has_limit_one(scope: Scope) -> bool:
    """Return whether it has `limit 1` or `limit 0`, written out."""
    limit = read_number(scope, scope.query["limitCount"])
    return scope.query["limitOption"] == "0" and limit is not None and limit <= 1  # else with ties


def read_number(scope: Scope, expression: Node | None) -> int | None:
    """Return a constant, perhaps cast to bigint; None for what is no constant, or null."""
    while expression and expression[""] in ("RELABELTYPE", "FUNCEXPR"):
        cast = expression[""] == "RELABELTYPE" or scope.catalog.functions.get(expression["funcid"]) in (
            "int2",
            "int4",
            "int8",
        )
        expression = (expression.get("arg") or expression["args"][0]) if cast else None
    if not expression or expression[""] != "CONST" or expression["constisnull"] == "true":
        return None
    return int.from_bytes(read_bytes(expression), "little", signed=True)


def inserts_one(scope: Scope, used: set[str]) -> bool:
    """Return whether an insert is of `values` with one row, or of a sub-query of one."""
    sources = [scope.entry(number) for number in references(scope.query["jointree"])]
    for entry in sources:
        if entry["rtekind"] == Entry.VALUES and len(entry["values_lists"]) > 1:
            return False
        inner = scope.inner(entry)
        if inner and not is_single(inner, used):
            return False
    return all(
        entry["rtekind"] in (Entry.SUBQUERY, Entry.VALUES, Entry.CTE, Entry.RESULT) for entry in sources
    )


def merges_one(scope: Scope, used: set[str]) -> bool:
    """Return whether a merge is of one row, which matches one row of the target."""
    query = scope.query
    if any(action["matchKind"] == BY_SOURCE for action in listed(query["mergeActionList"])):
        return False
    joined = [Condition(each, {query["resultRelation"]}) for each in conjuncts(query["mergeJoinCondition"])]
    return joins_one(scope, used, {query["resultRelation"]}, joined)


def joins_one(
    scope: Scope, used: set[str], more: Set[str] = frozenset(), joined: "Sequence[Condition]" = ()
) -> bool:
    """Return whether, in some order, each table is held to one row by values that are known before it.

    There may be more entries than those of `from`, and conditions that join them.
    """
    conditions = [*find_conditions(scope.query["jointree"]), *joined]
    waiting, single = references(scope.query["jointree"]) | more, set[str]()
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
    if entry["rtekind"] == Entry.RELATION:
        columns = scope.catalog.columns
        numbers = fixed_columns(scope, number, conditions, single)
        fixed = {column.name for n in numbers if (column := columns.get((entry["relid"], n)))}
        key = next(
            (key for key in scope.catalog.unique.get(entry["relid"], []) if set(key.columns) <= fixed), None
        )
        used |= {str(key)} if key else set()
        return key is not None
    if not find_lateral(entry) <= single:  # one row for each row of another entry, which may have many
        return False
    if entry["rtekind"] == Entry.VALUES:
        return len(entry["values_lists"]) == 1
    inner = scope.inner(entry)
    return entry["rtekind"] == Entry.RESULT or (inner is not None and is_single(inner, used))


def find_lateral(value: Any, depth: int = 0) -> set[str]:
    """Return the entries beside a sub-query that it takes values of."""
    found: set[str] = set()
    for node in walk_own(value):
        if node[""] == "VAR" and int(node["varlevelsup"]) == depth and depth:
            found.add(node["varno"])
        elif node[""] == "QUERY":
            found |= find_lateral([*node.values()], depth + 1)
    return found


def fixed_columns(scope: Scope, number: str, conditions: list[Condition], single: set[str]) -> Iterator[str]:
    """Yield the columns of an entry that an equality sets to something known."""
    for expression, entries in conditions:
        equality = expression[""] == "OPEXPR" and scope.catalog.operators.get(expression["opno"]) == "="
        if number not in entries or not equality:
            continue
        left, right = map(relabelled, expression["args"])
        for column, value in ((left, right), (right, left)):
            ours = column[""] == "VAR" and (column["varno"], column["varlevelsup"]) == (number, "0")
            # Of another collation, other texts may be equal than those that the key holds apart.
            if ours and column["varcollid"] == expression["inputcollid"] and is_known(scope, value, single):
                yield column["varattno"]


CALLS = ("FUNCEXPR", "SUBLINK", "QUERY", "NEXTVALUEEXPR")


def is_known(scope: Scope, value: Node, single: set[str]) -> bool:
    """Return whether a value is one for all rows of an entry: of parameters, constants, entries with one row.

    What a function gives may differ from row to row, that of an operator of one's own as well.
    """
    return all(
        node[""] not in CALLS
        and (node[""] != "VAR" or node["varlevelsup"] != "0" or node["varno"] in single)
        and ("opno" not in node or node["opno"] in scope.catalog.operators)
        for node in walk_own(value)
    )


# At least one


def is_present(scope: Scope) -> bool:
    """Return whether there is always a row."""
    if scope.present is None:
        scope.present = prove_present(scope)
    return scope.present


def prove_present(scope: Scope) -> bool:
    """Return the same, not yet known."""
    query = scope.query
    limit, offset = (query[clause] for clause in ("limitCount", "limitOffset"))
    if offset or query["havingQual"] or (limit and not read_number(scope, limit)):
        return False
    if query["hasTargetSRFs"] == "true":
        return False
    if query["setOperations"]:
        return operation_is_present(scope, query["setOperations"])
    if query["commandType"] == Statement.INSERT:
        written = returns_always(query) and not scope.is_altered()
        return written and all(entry_is_present(scope, number) for number in references(query["jointree"]))
    return query["commandType"] == Statement.SELECT and (is_aggregate(query) or joins_some(scope))


def operation_is_present(scope: Scope, operation: Node) -> bool:
    """Return whether a union, or a part of it, always has a row."""
    if operation[""] == "RANGETBLREF":
        return entry_is_present(scope, operation["rtindex"])
    sides = (operation_is_present(scope, operation[side]) for side in ("larg", "rarg"))
    return operation["op"] == UNION and any(sides)


def returns_always(query: Node) -> bool:
    """Return whether each row that is inserted comes out, also where it was there before."""
    conflict = query["onConflict"]
    return not conflict or (conflict["action"] != NOTHING and not conflict["onConflictWhere"])


def joins_some(scope: Scope) -> bool:
    """Return whether `from` always has a row, and nothing lets it out."""
    query = scope.query
    skipping = any(mark["waitPolicy"] == SKIP_LOCKED for mark in listed(query["rowMarks"]))
    return not skipping and tree_is_present(scope, query["jointree"])


def tree_is_present(scope: Scope, tree: Node) -> bool:
    """Return whether a part of `from` always has a row: each entry does, or the side that a join keeps."""
    if tree[""] == "RANGETBLREF":
        return entry_is_present(scope, tree["rtindex"])
    if tree[""] == "FROMEXPR":
        return not tree["quals"] and all(tree_is_present(scope, part) for part in listed(tree["fromlist"]))
    left, right = (tree_is_present(scope, tree[side]) for side in ("larg", "rarg"))
    kept = {"0": left and right and not tree["quals"], LEFT: left, RIGHT: right}
    return kept.get(tree["jointype"], left or right)


def entry_is_present(scope: Scope, number: str) -> bool:
    """Return whether an entry of a range table always has a row."""
    entry = scope.entry(number)
    if entry["rtekind"] == Entry.FUNCTION:
        calls = [function["funcexpr"] for function in listed(entry["functions"])]
        return any(call[""] != "FUNCEXPR" or call["funcretset"] == "false" for call in calls)
    inner = scope.inner(entry)
    if inner is None or inner in scope.chain():  # where it refers to itself, that gives it no first row
        return entry["rtekind"] in (Entry.VALUES, Entry.RESULT)
    return is_present(inner)
