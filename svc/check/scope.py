"""What a query's columns are made of: whether they may be null, and which tables' columns are in them."""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from svc.check.tree import WRAPPERS, Node, conjuncts, unwrap, walk, walk_own
from svc.postgres.catalog import Column, UniqueKey

UPDATE, MERGE = "2", "5"
RELATION, SUBQUERY, JOIN, VALUES, CTE, GROUP = "0", "1", "2", "5", "6", "9"
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


class Catalog(Struct, frozen=True):
    """The live schema, as far as the analysis looks at it."""

    columns: Mapping[tuple[str, str], Column]
    unique: Mapping[str, list[UniqueKey]]
    functions: Mapping[str, str]
    operators: Mapping[str, str]
    constraints: Mapping[str, list[str]]


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
        self._visiting: set[int | None] = set()
        self._tables: dict[str, Scope] = {}

    def inside(self, query: Node) -> "Scope":
        """Return a query within this one."""
        return Scope(query, self.catalog, self.nullable_parameters, self)

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
        if kind in ("BOOLEXPR", "ROWCOMPAREEXPR"):
            parts = expression["args"] if kind == "BOOLEXPR" else expression["largs"] + expression["rargs"]
            return any(map(self.may_be_null, parts))
        if kind == "FUNCEXPR":
            arguments: list[Node] = expression["args"] or []
            return not self._is_total(expression, arguments) or any(map(self.may_be_null, arguments))
        if kind == "SQLVALUEFUNCTION":
            return expression["type"] not in TIMES
        if kind == "OPEXPR":
            total = self.catalog.operators.get(expression["opno"]) in TOTAL_OPERATORS
            return not total or any(map(self.may_be_null, expression["args"]))
        if kind == "AGGREF":
            return self._aggregate_may_be_null(expression)
        if kind == "WINDOWFUNC":
            return self.catalog.functions.get(expression["winfnoid"]) not in COUNTS
        if kind == "SUBLINK":
            return self._sublink_may_be_null(expression)
        return True

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
            return not self.catalog.columns[entry["relid"], column].not_null
        if kind in (JOIN, GROUP):
            return self.may_be_null(entry["joinaliasvars" if kind == JOIN else "groupexprs"][int(column) - 1])
        if kind == VALUES:
            return any(self.may_be_null(row[int(column) - 1]) for row in entry["values_lists"])
        if inner := self.inner(entry):
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
        """Return a common table expression; the same object each time, so that recursion ends."""
        if name not in self._tables:
            query = next(c["ctequery"] for c in self.query["cteList"] if c["ctename"] == name)
            self._tables[name] = self.inside(query)
        return self._tables[name]

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

    # Origins

    def origins(self, expression: Any) -> set[Column]:
        """Return every column of a table that has a part in an expression's value, sub-queries included."""
        found: set[Column] = set()
        for node in walk_own(expression):
            if node[""] == "VAR":
                scope = self.ancestor(node["varlevelsup"])
                found |= scope.entry_origins(node["varno"], node["varattno"])
            elif node[""] == "QUERY":
                found |= self.inside(node).all_origins()
        return found

    def entry_origins(self, number: str, column: str) -> set[Column]:
        """Return the columns of tables behind a column of a range table's entry; all of a whole row's."""
        entry = self.entry(number)
        kind, index = entry["rtekind"], int(column) - 1
        if kind == RELATION:
            known = self.catalog.columns
            if index < 0:
                return {column_ for key, column_ in known.items() if key[0] == entry["relid"]}
            return {known[entry["relid"], column]}
        if kind in (JOIN, GROUP):
            return self.origins(entry["joinaliasvars" if kind == JOIN else "groupexprs"])
        inner = self.inner(entry)
        if inner is None:
            return self.origins([entry.get("values_lists"), entry.get("functions")])
        return inner.all_origins(None if index < 0 else index)

    def all_origins(self, index: int | None = None) -> set[Column]:
        """Return the columns of tables behind what comes out: at `index`, from 0, or all of it."""
        if index in self._visiting:  # a recursive query refers to itself
            return set()
        self._visiting.add(index)
        try:
            return set[Column]().union(*self._leaf_origins(index))
        finally:
            self._visiting.discard(index)

    def _leaf_origins(self, index: int | None) -> Iterator[set[Column]]:
        if operations := self.query["setOperations"]:
            number = "0" if index is None else str(index + 1)
            for node in walk(operations):
                if node[""] == "RANGETBLREF":
                    yield self.entry_origins(node["rtindex"], number)
        else:
            for target in self.targets if index is None else [self.targets[index]]:
                yield self.origins(target["expr"])
