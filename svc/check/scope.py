"""One query and those within it: what its columns are, and whether they may be null."""

from collections.abc import Iterator
from typing import Any

from svc.check.schema import Catalog
from svc.check.tree import WRAPPERS, Node, conjuncts, has_null, unwrap, walk_own

UPDATE, MERGE = "2", "5"
RELATION, SUBQUERY, JOIN, FUNCTION, VALUES, CTE, GROUP = "0", "1", "2", "3", "5", "6", "9"
"""Kinds of statements and of range table entries (PostgreSQL, nodes/nodes.h and nodes/parsenodes.h)."""

TOTAL_OPERATORS = frozenset(
    """= <> < <= > >= + - * / % || ~ ~* !~ !~* ~~ ~~* !~~ !~~* @> <@ && ? ?| ?&""".split()
)
"""Operators of PostgreSQL's own that give no null when they are given none; `->` and its like may."""

TOTAL_FUNCTIONS = frozenset(
    """abs age array_append array_cat bool btrim cardinality ceil char_length clock_timestamp concat date
    date_trunc float4 float8 floor format format_type gen_random_uuid hashtextextended initcap int2 int4
    int8 json_build_array json_build_object jsonb_build_array jsonb_build_object jsonb_typeof left
    length ltrim md5 mod now numeric octet_length pg_is_in_recovery repeat replace reverse right round
    row_to_json rtrim set_config sha256 sign statement_timestamp text timestamp timestamptz to_json
    to_jsonb transaction_timestamp translate trunc uuidv4 uuidv7""".split()
)
"""Functions of PostgreSQL's own that give no null when they are given none."""

TEXT = "25"
TIMES = ("1082", "1083", "1114", "1184", "1266")
"""Types by their numbers: text; date and the like, which `current_date` and its like are of."""

COUNTS = frozenset(["count", "row_number", "rank", "dense_rank", "percent_rank", "cume_dist"])
"""Aggregates and window functions that are never null, whatever they are given."""

KEEPING = frozenset(
    """sum avg min max array_agg string_agg json_agg jsonb_agg bool_and bool_or every""".split()
)
"""Aggregates that give no null over at least one row where their argument is never null."""

NEVER_NULL = (
    "NULLTEST", "BOOLEANTEST", "DISTINCTEXPR", "ARRAYEXPR", "ROWEXPR", "GROUPINGFUNC",
    "NEXTVALUEEXPR", "MERGESUPPORTFUNC",
)  # fmt: skip


class Scope:
    """One query, and the queries around it."""

    def __init__(
        self, query: Node, catalog: Catalog, nullable_parameters: set[str], outer: "Scope | None" = None
    ) -> None:
        self.query = query
        self.catalog = catalog
        self.nullable_parameters = nullable_parameters
        self.outer = outer
        self._known: dict[int, bool] = {}
        self._inside: dict[int, Scope] = {}

    def inside(self, query: Node) -> "Scope":
        """Return a query within this one: the same object each time, which keeps what is known."""
        if id(query) not in self._inside:
            self._inside[id(query)] = Scope(query, self.catalog, self.nullable_parameters, self)
        return self._inside[id(query)]

    def walk(self) -> "Iterator[Scope]":
        """Yield this query and all within it."""
        yield self
        for node in walk_own([*self.query.values()]):
            if node[""] == "QUERY":
                yield from self.inside(node).walk()

    @property
    def targets(self) -> list[Node]:
        """Return the columns that come out, in order."""
        listed: list[Node] = (
            self.query["targetList"] if self.query["commandType"] == "1" else self.query["returningList"]
        ) or []
        return [target for target in listed if target["resjunk"] == "false"]

    def entry(self, number: str) -> Node:
        """Return an entry of the range table."""
        found: Node = self.query["rtable"][int(number) - 1]
        return found

    # Nullability

    def column_may_be_null(self, index: int) -> bool:
        """Return whether the column at `index`, from 0, may be null; where a query refers to itself, no."""
        if index not in self._known:
            self._known[index] = False
            self._known[index] = self._leaf_may_be_null(self.query["setOperations"], index)
        return self._known[index]

    def _leaf_may_be_null(self, operation: Node | None, index: int) -> bool:
        if operation is None:
            return self.may_be_null(self.targets[index]["expr"])
        if operation[""] == "RANGETBLREF":
            return self.inside(self.entry(operation["rtindex"])["subquery"]).column_may_be_null(index)
        sides = [self._leaf_may_be_null(operation[side], index) for side in ("larg", "rarg")]
        # union: either side's rows; intersect: rows of both; except: the left side's
        return {"1": any(sides), "2": all(sides), "3": sides[0]}[operation["op"]]

    def may_be_null(self, expression: Any) -> bool:
        """Return whether an expression may be null; what is not known here may be."""
        kind: str = expression[""]
        if kind == "VAR":
            return self._variable_may_be_null(expression)
        if kind == "PARAM":
            return expression["paramkind"] != "0" or expression["paramid"] in self.nullable_parameters
        if kind == "CONST":
            return bool(expression["constisnull"] == "true")
        if kind in NEVER_NULL:
            return False
        if kind in WRAPPERS:
            return self.may_be_null(expression["arg"])
        if kind in ("COALESCEEXPR", "MINMAXEXPR"):
            return all(map(self.may_be_null, expression["args"]))
        if kind == "CASEEXPR":
            results = [when["result"] for when in expression["args"]]
            return any(map(self.may_be_null, [*results, expression["defresult"]]))
        return self._call_may_be_null(kind, expression)

    def _call_may_be_null(self, kind: str, expression: Node) -> bool:
        if kind == "BOOLEXPR":
            return any(map(self.may_be_null, expression["args"]))
        if kind == "ROWCOMPAREEXPR":
            return any(map(self.may_be_null, expression["largs"] + expression["rargs"]))
        if kind == "FUNCEXPR":
            arguments: list[Node] = expression["args"] or []
            return not self._is_total(expression, arguments) or any(map(self.may_be_null, arguments))
        return self._operation_may_be_null(kind, expression)

    def _operation_may_be_null(self, kind: str, expression: Node) -> bool:
        if kind == "SQLVALUEFUNCTION":
            return expression["type"] not in TIMES
        if kind == "OPEXPR":
            total = self.catalog.operators.get(expression["opno"]) in TOTAL_OPERATORS
            return not total or any(map(self.may_be_null, expression["args"]))
        if kind == "SCALARARRAYOPEXPR":
            return self._search_may_be_null(expression)
        if kind == "AGGREF":
            return self._aggregate_may_be_null(expression)
        if kind == "WINDOWFUNC":
            return self.catalog.functions.get(expression["winfnoid"]) not in COUNTS
        if kind == "SUBLINK":
            return self._sublink_may_be_null(expression)
        return True

    def _search_may_be_null(self, search: Node) -> bool:
        """Return whether `x = any (…)` may be null: also where an element is, and no other one decides."""
        total = self.catalog.operators.get(search["opno"]) in TOTAL_OPERATORS
        value, array = search["args"]
        return not total or self.may_be_null(value) or self._may_hold_null(array)

    def _may_hold_null(self, array: Node) -> bool:
        """Return whether an array is null, or an element of it; what is not written out may be."""
        if array[""] == "CONST":
            return array["constisnull"] == "true" or has_null(array)
        return array[""] != "ARRAYEXPR" or any(map(self.may_be_null, array["elements"] or []))

    def _is_total(self, call: Node, arguments: list[Node]) -> bool:
        """Return whether a function gives no null when it is given none; some do so for some types alone."""
        name = self.catalog.functions.get(call["funcid"])
        if name in ("lower", "upper"):  # of a range without a bound they are null
            return bool(call["funcresulttype"] == TEXT)
        return name in TOTAL_FUNCTIONS or (name == "current_setting" and len(arguments) == 1)

    def _aggregate_may_be_null(self, aggregate: Node) -> bool:
        name = self.catalog.functions.get(aggregate["aggfnoid"])
        if name in COUNTS:
            return False
        grouped = self.query["groupClause"] and not self.query["groupingSets"] and not aggregate["aggfilter"]
        listed: list[Node] = aggregate["args"] or []
        arguments = [argument["expr"] for argument in listed]
        return not grouped or name not in KEEPING or any(map(self.may_be_null, arguments))

    def _sublink_may_be_null(self, sublink: Node) -> bool:
        kind = sublink["subLinkType"]
        if kind in ("0", "6"):  # exists, array
            return False
        inner = self.inside(sublink["subselect"])
        if kind == "4":  # one value: null where there is no row
            always = inner.query["hasAggs"] == "true" and not inner.query["groupClause"]
            return not always or inner.column_may_be_null(0)
        return True

    def _variable_may_be_null(self, variable: Node) -> bool:
        scope = self.ancestor(variable["varlevelsup"])
        number, column = variable["varno"], variable["varattno"]
        changing = scope.query["commandType"] in (UPDATE, MERGE) and number == scope.query["resultRelation"]
        if (
            variable["varreturningtype"] == "1"
            or scope.query["groupingSets"]
            or scope.query["commandType"] == MERGE
        ):
            return True
        if (number, column) in scope.filtered() and not changing:  # `returning` gives the new value
            return False
        return bool(variable["varnullingrels"]) or scope.entry_may_be_null(number, column)

    def entry_may_be_null(self, number: str, column: str) -> bool:
        """Return whether a column of a range table's entry may be null before any join of this query."""
        entry = self.entry(number)
        kind = entry["rtekind"]
        if int(column) <= 0:
            return False
        if kind == RELATION:
            known = self.catalog.columns.get((entry["relid"], column))
            return known is None or not known.not_null
        if kind in (JOIN, GROUP):
            return self.may_be_null(entry["joinaliasvars" if kind == JOIN else "groupexprs"][int(column) - 1])
        if kind == VALUES:
            return any(self.may_be_null(row[int(column) - 1]) for row in entry["values_lists"])
        inner = self.inner(entry)
        if inner and int(column) <= len(inner.targets):  # else one that `search` or `cycle` made
            return inner.column_may_be_null(int(column) - 1)
        return True

    def inner(self, entry: Node) -> "Scope | None":
        """Return the query behind a sub-query's or a common table expression's entry."""
        if entry["rtekind"] == SUBQUERY:
            return self.inside(entry["subquery"])
        if entry["rtekind"] == CTE:
            owner = self.ancestor(entry["ctelevelsup"])
            return owner.common_table(entry["ctename"])
        return None

    def common_table(self, name: str) -> "Scope":
        """Return the query of a common table expression."""
        return self.inside(self.find_common_table(name)["ctequery"])

    def find_common_table(self, name: str) -> Node:
        """Return a common table expression."""
        found: Node = next(table for table in self.query["cteList"] if table["ctename"] == name)
        return found

    def ancestor(self, levels: str) -> "Scope":
        """Return the query so many levels up."""
        scope = self
        for _ in range(int(levels)):
            if scope.outer is None:
                raise LookupError("a variable of a query that is not there")
            scope = scope.outer
        return scope

    def filtered(self) -> set[tuple[str, str]]:
        """Return the columns of which `where` lets no null through: `x is not null`, or a comparison."""
        found: set[tuple[str, str]] = set()
        for condition in conjuncts(self.query["jointree"]["quals"] if self.query["jointree"] else None):
            parts: list[Node] = []
            if condition[""] == "NULLTEST" and condition["nulltesttype"] == "1":
                parts = [condition["arg"]]
            elif self.catalog.operators.get(str(condition.get("opno"))) in TOTAL_OPERATORS:
                if condition[""] == "OPEXPR":
                    parts = condition["args"]
                elif condition[""] == "SCALARARRAYOPEXPR" and condition["useOr"] == "true":  # = any (…)
                    parts = condition["args"][:1]
            for part in map(unwrap, parts):
                if part[""] == "VAR" and part["varlevelsup"] == "0":
                    found.add((part["varno"], part["varattno"]))
        return found
