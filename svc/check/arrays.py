"""Lists that pass as arrays or JSON: those a `:columns` statement gives, and those that `unnest` takes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from svc.check.kinds import Entry, Statement, Sublink
from svc.check.nulls import JSON, Nulls, find_type
from svc.check.rows import is_known
from svc.check.scope import Scope
from svc.check.tree import Node, listed, read_bytes, unwrap, walk


class Array(NamedTuple):
    """A column that is a list: what its elements are made of, and where; whether it may be null as a whole.

    `type` is the number of its elements' type, as it is written in trees.
    """

    scope: Scope
    element: Node | None
    type: str
    may_lack: bool

    def may_hold_null(self, nulls: Nulls) -> bool:
        """Return whether a row may have a null here."""
        return self.may_lack or (self.element is not None and nulls.of(self.scope, self.element))


def has_one_row(scope: Scope) -> bool:
    """Return whether there is always one row, and never none: an aggregate over all rows."""
    query = scope.query
    plain = (query["commandType"], query["hasAggs"], query["hasTargetSRFs"]) == (
        Statement.SELECT,
        "true",
        "false",
    )
    cutting = ("groupClause", "groupingSets", "havingQual", "limitCount", "limitOffset", "setOperations")
    return plain and not any(query[clause] for clause in cutting)


def read_array(scope: Scope, expression: Any) -> Array | None:
    """Read a column that has an element for each row, in the order of the rows; None for any other one.

    That is `array_agg(x)`, with a `filter` for all rows or none perhaps, `coalesce(array_agg(x), '{}')`, or
    null; or the same with `json_agg` and `'[]'`. So all lists of a statement are of one length, but for those
    that are null.
    """
    inner = unwrap(expression)
    if inner[""] == "CONST" and inner["constisnull"] == "true":
        return Array(scope, None, "", may_lack=True)
    if inner[""] != "COALESCEEXPR":
        return read_aggregate(scope, inner)
    given, *others = inner["args"]
    array = read_aggregate(scope, unwrap(given))
    is_whole = len(others) == 1 and is_empty(unwrap(others[0])) and not unwrap(given).get("aggfilter")
    return array._replace(may_lack=False) if array and is_whole else None


def read_inner_array(outer: Array) -> Array | None:
    """Read the lists that a list of lists is of: a column of a sub-query; None for any other one."""
    variable = outer.element
    if variable is None or variable[""] != "VAR" or variable["varlevelsup"] != "0":
        return None
    inner, index = outer.scope.inner(outer.scope.entry(variable["varno"])), int(variable["varattno"]) - 1
    if inner is None or index >= len(inner.targets) or variable["varnullingrels"]:
        return None
    return read_inner_array(Array(inner, inner.targets[index]["expr"], "", may_lack=False)) or read_array(
        inner, inner.targets[index]["expr"]
    )


def read_aggregate(scope: Scope, aggregate: Node) -> Array | None:
    """Read an `array_agg`, which is null where there is no row. One of arrays has no element for each row."""
    name = scope.catalog.functions.get(aggregate["aggfnoid"]) if aggregate[""] == "AGGREF" else None
    if name not in ("array_agg", "json_agg"):
        return None
    of_arrays = name == "array_agg" and aggregate["aggtype"] in aggregate["aggargtypes"]
    if of_arrays or aggregate["aggorder"] or aggregate["aggdistinct"]:
        return None
    if aggregate["aggfilter"] and not is_known(scope, aggregate["aggfilter"], set()):
        return None
    return Array(scope, aggregate["args"][0]["expr"], str(aggregate["aggargtypes"][0]), may_lack=True)


def is_nested(scope: Scope, expression: Node) -> bool:
    """Return whether an array has more than one dimension: one of arrays, which no list of values is."""
    expression = unwrap(expression)
    kind = expression[""]
    if kind == "AGGREF":
        of_arrays = expression["aggtype"] in expression["aggargtypes"]
        return of_arrays and scope.catalog.functions.get(expression["aggfnoid"]) == "array_agg"
    if kind == "ARRAYEXPR":
        return bool(expression["multidims"] == "true")
    if kind == "SUBLINK" and expression["subLinkType"] == Sublink.ARRAY:
        inner = scope.inside(expression["subselect"]).targets[0]["expr"]
        return find_type(inner) in scope.catalog.arrays
    if kind in ("COALESCEEXPR", "MINMAXEXPR"):
        return any(is_nested(scope, each) for each in listed(expression["args"]))
    return kind == "VAR" and column_is_nested(scope, expression)


def column_is_nested(scope: Scope, variable: Node) -> bool:
    """Return whether a column of a sub-query is an array of arrays; one of a table is as it is declared."""
    scope = scope.ancestor(variable["varlevelsup"])
    inner, index = scope.inner(scope.entry(variable["varno"])), int(variable["varattno"]) - 1
    if inner is None or inner.query["setOperations"] or index >= len(inner.targets):
        return False
    return is_nested(inner, inner.targets[index]["expr"])


def is_empty(expression: Node) -> bool:
    """Return whether this is `'{}'`, `array[]` or `'[]'`: of an array, four bytes hold its dimensions."""
    if expression[""] == "ARRAYEXPR":
        return not expression["elements"]
    if expression[""] != "CONST":
        return False
    value = read_bytes(expression)[4:]
    return value == b"[]" if expression["consttype"] in JSON else value[:4] == bytes(4)


def find_unnested(scope: Scope) -> Iterator[tuple[int, str]]:
    """Yield the number of each parameter that `unnest` makes a column of, and the name of that column."""
    for entry in walk(scope.query):
        if entry[""] != "RANGETBLENTRY" or entry["rtekind"] != Entry.FUNCTION:
            continue
        calls: list[Node] = [function["funcexpr"] for function in entry["functions"]]
        for call, column in zip(calls, entry["eref"]["colnames"], strict=False):
            if scope.catalog.functions.get(str(call.get("funcid"))) == "unnest":
                given = unwrap(call["args"][0])
                if given[""] == "SUBLINK":  # (select $1), whose length the planner does not look at
                    given = unwrap(scope.inside(given["subselect"]).targets[0]["expr"])
                if given[""] == "PARAM":
                    yield int(given["paramid"]), str(column)
