"""Which columns may be null, and which arrays may hold a null; what is not known here may.

A null comes out of a table's column that takes one, out of the side of a join that is padded, out of an
aggregate over no row, out of a function or an operator that may give one, or was given one. PostgreSQL's
tree says of each use of a column which table's it is, and which joins may have made it null. A function in
SQL gives what its last query does; what a change returns is what it was given, where nothing else has a say
in it.
"""

from collections.abc import Iterator
from typing import Any

from svc.check.fixpoint import Fixpoint
from svc.check.kinds import Entry, Param, Returned, Statement, Sublink
from svc.check.rows import is_present
from svc.check.scope import Parameters, Scope, find_aliased, open_body, open_view
from svc.check.tree import WRAPPERS, Node, conjuncts, has_null, listed, unwrap, walk

TOTAL_OPERATORS = frozenset(
    """= <> < <= > >= + - * / % || ~ ~* !~ !~* ~~ ~~* !~~ !~~* @> <@ && ? ?| ?&""".split()
)
"""Operators of PostgreSQL's own that give no null when they are given none; `->` and its like may."""

TOTAL_FUNCTIONS = frozenset(
    """abs acos acosd acosh age array_append array_cat array_fill array_prepend array_remove array_replace
    array_to_string ascii asin asind asinh atan atan2 atan2d atand atanh bit_count bit_length bool
    btrim cardinality cbrt ceil ceiling char_length character_length chr clock_timestamp concat
    convert convert_from convert_to cos cosd cosh cot cotd current_database date date_bin date_trunc
    decode degrees div encode erf erfc exp factorial float4 float8 floor format format_type gcd
    gen_random_uuid get_bit get_byte hashtext hashtextextended host initcap int2 int4 int8 isempty
    isfinite json_build_array json_build_object jsonb_array_length jsonb_build_array
    jsonb_build_object jsonb_insert jsonb_pretty jsonb_strip_nulls jsonb_typeof justify_days
    justify_hours justify_interval lcm left length ln log log10 lower_inc lower_inf lpad ltrim
    make_date make_interval make_time make_timestamp make_timestamptz masklen md5 mod nextval now
    numeric octet_length overlay pg_advisory_unlock pg_advisory_unlock_shared pg_backend_pid
    pg_is_in_recovery pg_typeof pi pow power quote_ident quote_literal quote_nullable radians random
    regexp_count regexp_like regexp_replace repeat replace reverse right round row_to_json rpad
    rtrim set_config sha224 sha256 sha384 sha512 sign sin sind sinh split_part sqrt starts_with
    statement_timestamp string_to_array strpos substr tan tand tanh text timestamp timestamptz
    timezone to_hex to_json to_jsonb transaction_timestamp translate trunc upper_inc upper_inf
    uuidv4 uuidv7 version width_bucket""".split()
)
"""Functions of PostgreSQL's own that give no null when they are given none.

tests/check/test_total.py calls each form of each of them with values of all kinds.
"""

TEXT, PATH = "25", "602"
TIMES = ("1082", "1083", "1114", "1184", "1266")
"""Types by their numbers: text; path; date and the like, which `current_date` and its like are of."""

COUNTS = frozenset(["count", "row_number", "rank", "dense_rank", "percent_rank", "cume_dist"])
"""Aggregates and window functions that are never null, whatever they are given."""

KEEPING = frozenset(
    """sum avg min max array_agg string_agg json_agg jsonb_agg json_object_agg jsonb_object_agg bool_and
    bool_or every bit_and bit_or bit_xor any_value var_pop stddev_pop""".split()
)
"""Aggregates that give no null over at least one row where their argument is never null."""

NEVER_NULL = (
    "NULLTEST", "BOOLEANTEST", "DISTINCTEXPR", "ARRAYEXPR", "ROWEXPR", "GROUPINGFUNC",
    "NEXTVALUEEXPR", "MERGESUPPORTFUNC",
)  # fmt: skip

CALLED_ON_NULL = frozenset(
    """array_append array_prepend concat json_build_array json_build_object jsonb_build_array
    jsonb_build_object quote_nullable""".split()
)
"""Those that give no null, whatever they are given."""

CASTS = frozenset(["bool", "int2", "int4", "int8", "numeric", "float4", "float8"])
"""Functions that of JSON's null make a null, and are total for other types."""

JSON = ("114", "3802")
"""The types json and jsonb by their numbers."""

GIVING = {
    **dict.fromkeys(
        ["generate_series", "generate_subscripts", "regexp_split_to_table", "string_to_table"], 1
    ),
    **dict.fromkeys(
        ["json_object_keys", "jsonb_object_keys", "json_array_elements", "jsonb_array_elements"], 1
    ),
    **dict.fromkeys(["json_each_text", "jsonb_each_text"], 1),
    **dict.fromkeys(["json_each", "jsonb_each"], 2),
}
"""Functions of PostgreSQL's own that give rows, and how many of their first columns are never null."""


class Nulls:
    """The nulls of the queries on one schema; `trusting`, no function gives one unless it is given one."""

    def __init__(self, *, trusting: bool = False) -> None:
        self.trusting = trusting
        self._known = Fixpoint(False)

    # Columns

    def of_column(self, scope: Scope, index: int) -> bool:
        """Return whether the column at `index`, from 0, may be null."""
        operations = scope.query["setOperations"]
        return self._known.get((scope, index), lambda: self._of_side(scope, operations, index))

    def _of_side(self, scope: Scope, operation: Node | None, index: int, holds: bool = False) -> bool:
        """Return whether a column of a set operation, or of a part of it, may be null, or hold a null."""
        if operation is None:
            return (self.in_array if holds else self.of)(scope, scope.targets[index]["expr"])
        if operation[""] == "RANGETBLREF":
            inner = scope.inside(scope.entry(operation["rtindex"])["subquery"])
            return (self.in_column if holds else self.of_column)(inner, index)
        sides = [self._of_side(scope, operation[side], index, holds) for side in ("larg", "rarg")]
        # union: either side's rows; intersect: rows of both; except: the left side's
        return {"1": any(sides), "2": all(sides), "3": sides[0]}[operation["op"]]

    def of(self, scope: Scope, expression: Node) -> bool:
        """Return whether an expression may be null."""
        kind: str = expression[""]
        if kind == "VAR":
            return self._of_variable(scope, expression)
        if kind == "PARAM":
            ours = expression["paramkind"] == Param.EXTERNAL
            return not ours or expression["paramid"] in scope.parameters.nullable
        if kind == "CONST":
            return bool(expression["constisnull"] == "true")
        if kind in NEVER_NULL:
            return False
        if kind in WRAPPERS:
            return self.of(scope, expression["arg"])
        if kind in ("COALESCEEXPR", "MINMAXEXPR"):
            return all(self._of_each(scope, expression["args"]))
        if kind == "CASEEXPR":
            results = [when["result"] for when in expression["args"]]
            return any(self._of_each(scope, [*results, expression["defresult"]]))
        return self._of_call(scope, kind, expression)

    def find_written(self, scope: Scope) -> set[str]:
        """Return the columns into which a query may put a null."""
        return {
            str(column)
            for each in scope.walk()
            for column, expression in each.find_assignments()
            if self.of(each, expression)
        }

    def _of_each(self, scope: Scope, expressions: Any) -> Iterator[bool]:
        return (self.of(scope, expression) for expression in listed(expressions))

    def _of_call(self, scope: Scope, kind: str, expression: Node) -> bool:
        if kind == "BOOLEXPR":
            return any(self._of_each(scope, expression["args"]))
        if kind == "ROWCOMPAREEXPR":
            return any(self._of_each(scope, expression["largs"] + expression["rargs"]))
        if kind == "FUNCEXPR" and not self.trusting and self._is_body(scope, expression):
            return self._of_body(scope, expression)
        if kind == "FUNCEXPR":
            total = self.trusting or is_total(scope, expression)
            return not total or any(self._of_each(scope, find_deciding(scope, expression)))
        if kind == "OPEXPR":
            total = scope.catalog.operators.get(expression["opno"]) in TOTAL_OPERATORS
            total &= expression["opresulttype"] != PATH  # of two closed ones `+` makes nothing
            return not total or any(self._of_each(scope, expression["args"]))
        return self._of_others(scope, kind, expression)

    def _is_body(self, scope: Scope, call: Node) -> bool:
        """Return whether a function gives one value, that of a query which is seen."""
        routine = scope.catalog.routines.get(call["funcid"])
        return routine is not None and bool(routine.tree) and routine.scalar

    def _of_body(self, scope: Scope, call: Node) -> bool:
        """Return whether the last query of a function gives a null, or no row, with what it is given."""
        routine, given = scope.catalog.routines[call["funcid"]], dict[str, Node]()
        for number, argument in enumerate(listed(call["args"]), 1):
            given[str(int(argument.get("argnumber", number - 1)) + 1)] = argument
        numbers = [str(number) for number in range(1, routine.inputs + 1)]
        nullable = frozenset(n for n in numbers if n not in given or self.of(scope, given[n]))
        holding = frozenset(n for n in numbers if n not in given or self.in_array(scope, given[n]))
        *_, last = open_body(scope.catalog, routine, Parameters(nullable, holding))
        null = len(last.targets) != 1 or not is_present(last) or self.of_column(last, 0)
        return null or (routine.strict and bool(nullable))

    def _of_others(self, scope: Scope, kind: str, expression: Node) -> bool:
        if kind == "SQLVALUEFUNCTION":
            return expression["type"] not in TIMES
        if kind == "SCALARARRAYOPEXPR":  # null as well where an element is, and no other one decides
            total = scope.catalog.operators.get(expression["opno"]) in TOTAL_OPERATORS
            _, array = expression["args"]
            return not total or any(self._of_each(scope, expression["args"])) or self.in_array(scope, array)
        if kind == "AGGREF":
            return self._of_aggregate(scope, expression)
        if kind == "WINDOWFUNC":
            return self._of_window(scope, expression)
        if kind == "SUBLINK":
            return self._of_sublink(scope, expression)
        return True

    def _of_aggregate(self, scope: Scope, aggregate: Node) -> bool:
        name = scope.catalog.functions.get(aggregate["aggfnoid"])
        if name in COUNTS:
            return False
        query = scope.ancestor(aggregate["agglevelsup"]).query
        grouped = query["groupClause"] and not query["groupingSets"] and not aggregate["aggfilter"]
        arguments = [argument["expr"] for argument in listed(aggregate["args"])]
        return not grouped or name not in KEEPING or any(self._of_each(scope, arguments))

    def _of_window(self, scope: Scope, call: Node) -> bool:
        name, arguments = scope.catalog.functions.get(call["winfnoid"]), listed(call["args"])
        if name in ("lag", "lead") and len(arguments) == 3:  # with what stands for a row that is not there
            return any(self._of_each(scope, arguments))
        return name not in COUNTS

    def _of_sublink(self, scope: Scope, sublink: Node) -> bool:
        kind = sublink["subLinkType"]
        if kind in (Sublink.EXISTS, Sublink.ARRAY):
            return False
        inner = scope.inside(sublink["subselect"])
        if kind == Sublink.ONE:
            return not is_present(inner) or self.of_column(inner, 0)
        test = sublink["testexpr"]
        if kind not in (Sublink.ALL, Sublink.ANY) or test[""] != "OPEXPR":
            return True
        total = scope.catalog.operators.get(test["opno"]) in TOTAL_OPERATORS
        return not total or self.of(scope, test["args"][0]) or self.of_column(inner, 0)

    # Columns of tables, and of what stands in their place

    def _of_variable(self, scope: Scope, variable: Node) -> bool:
        scope = scope.ancestor(variable["varlevelsup"])
        number, column = variable["varno"], variable["varattno"]
        kind, ours = scope.query["commandType"], number == scope.query["resultRelation"]
        returned = variable["varreturningtype"]
        if (
            (returned == Returned.OLD and kind == Statement.INSERT)
            or (returned == Returned.NEW and kind == Statement.DELETE)
            or kind == Statement.MERGE
        ):
            return True
        if scope.query["groupingSets"]:
            return True
        changed = ours and returned == Returned.NEW
        if not changed and (number, column) in find_filtered(scope):
            return False
        if changed and self._is_given(scope, column):
            return False
        return bool(variable["varnullingrels"]) or self._of_entry(scope, number, int(column))

    def _is_given(self, scope: Scope, column: str) -> bool:
        """Return whether an insert or an update, each part of it, sets a column to what is never null."""
        lists = [scope.query["targetList"]]
        if (conflict := scope.query["onConflict"]) and conflict["onConflictSet"]:
            lists.append(conflict["onConflictSet"])
        given = [[each["expr"] for each in listed(targets) if each["resno"] == column] for targets in lists]
        return not scope.is_altered() and all(
            expressions and not any(self._of_each(scope, expressions)) for expressions in given
        )

    def _of_entry(self, scope: Scope, number: str, column: int) -> bool:
        """Return whether a column of a range table's entry may be null before any join of this query."""
        entry = scope.entry(number)
        kind = entry["rtekind"]
        if column <= 0:
            return False
        if kind == Entry.RELATION:
            return self._of_stored(scope, entry["relid"], column)
        if kind in (Entry.JOIN, Entry.GROUP):
            return self.of(scope, entry["joinaliasvars" if kind == Entry.JOIN else "groupexprs"][column - 1])
        if kind == Entry.VALUES:
            return any(self._of_each(scope, [row[column - 1] for row in entry["values_lists"]]))
        inner = scope.inner(entry) if kind in (Entry.SUBQUERY, Entry.CTE) else None
        if inner and column <= len(inner.targets):  # else one that `search` or `cycle` made
            return self.of_column(inner, column - 1)
        return kind != Entry.FUNCTION or self._of_function(scope, entry, column)

    def _of_function(self, scope: Scope, entry: Node, column: int) -> bool:
        """Return whether a column of a function in `from` may be null; beside others it is padded."""
        calls = listed(entry["functions"])
        if entry["funcordinality"] == "true" and column == len(entry["eref"]["colnames"]):
            return False
        if len(calls) > 1:
            return True
        call = calls[0]["funcexpr"]
        name, arguments = scope.catalog.functions.get(str(call.get("funcid"))), listed(call.get("args"))
        if name == "unnest" and column == 1:
            return self.in_array(scope, arguments[0])
        if name in GIVING:
            return column > GIVING[name] or (name == "string_to_table" and len(arguments) > 2)
        return column > 1 or call.get("funcretset") == "true" or self.of(scope, call)

    def _of_stored(self, scope: Scope, relation: str, column: int) -> bool:
        known = scope.catalog.columns.get((relation, str(column)))
        if known is None or known.not_null:
            return known is None
        view = find_view(scope, relation)
        return view is None or self.of_column(view, column - 1)

    # Elements of arrays

    def in_column(self, scope: Scope, index: int) -> bool:
        """Return whether an array may hold a null, in the column at `index`, from 0."""
        operations = scope.query["setOperations"]
        return self._known.get(
            (scope, index, "elements"), lambda: self._of_side(scope, operations, index, holds=True)
        )

    def in_array(self, scope: Scope, expression: Node) -> bool:
        """Return whether an array may hold a null. A null in place of the array holds none."""
        kind: str = expression[""]
        if kind in ("RELABELTYPE", "COLLATEEXPR", "COERCETODOMAIN", "NAMEDARGEXPR"):
            return self.in_array(scope, expression["arg"])
        if kind == "CONST":
            return expression["constisnull"] != "true" and has_null(expression)
        if kind == "ARRAYEXPR":
            return any(self._of_each(scope, expression["elements"]))
        if kind == "PARAM":
            ours = expression["paramkind"] == Param.EXTERNAL
            return not ours or expression["paramid"] in scope.parameters.holding
        if kind == "VAR":
            return self._in_variable(scope, expression)
        if kind in ("COALESCEEXPR", "MINMAXEXPR"):
            return any(self.in_array(scope, each) for each in listed(expression["args"]))
        if kind == "CASEEXPR":
            results = [*(when["result"] for when in listed(expression["args"])), expression["defresult"]]
            return any(self.in_array(scope, result) for result in results)
        return self._in_call(scope, kind, expression)

    def _in_call(self, scope: Scope, kind: str, expression: Node) -> bool:
        if kind == "AGGREF" and scope.catalog.functions.get(expression["aggfnoid"]) == "array_agg":
            (argument, *_) = listed(expression["args"])
            return self.of(scope, argument["expr"])
        if kind == "SUBLINK":
            inner = scope.inside(expression["subselect"])
            column = self.of_column if expression["subLinkType"] == Sublink.ARRAY else self.in_column
            return column(inner, 0)
        if kind == "FUNCEXPR":
            return self._in_result(scope, expression)
        if kind == "ARRAYCOERCEEXPR":  # a cast of each element
            calls = [node for node in walk(expression["elemexpr"]) if node[""] == "FUNCEXPR"]
            casts = all(is_total(scope, call) for call in calls)
            return not casts or self.in_array(scope, expression["arg"])
        return True

    def _in_result(self, scope: Scope, call: Node) -> bool:
        name, arguments = scope.catalog.functions.get(call["funcid"]), listed(call["args"])
        if name == "array_remove" and arguments[1][""] == "CONST" and arguments[1]["constisnull"] == "true":
            return False
        if name in ("array_append", "array_prepend"):
            array, element = arguments if name == "array_append" else arguments[::-1]
            return self.in_array(scope, array) or self.of(scope, element)
        if name == "array_cat":
            return any(self.in_array(scope, each) for each in arguments)
        return not (name in ("string_to_array", "regexp_split_to_array") and len(arguments) == 2)

    def _in_variable(self, scope: Scope, variable: Node) -> bool:
        """Return whether an array in a column may hold a null: of a table, unless a constraint forbids it."""
        scope = scope.ancestor(variable["varlevelsup"])
        entry, index = scope.entry(variable["varno"]), int(variable["varattno"]) - 1
        if values := find_aliased(entry):
            return self.in_array(scope, values[index])
        if entry["rtekind"] == Entry.VALUES:
            return any(self.in_array(scope, row[index]) for row in entry["values_lists"])
        inner = scope.inner(entry)
        if entry["rtekind"] == Entry.RELATION:
            inner = find_view(scope, entry["relid"])
        return inner is None or index >= len(inner.targets) or self.in_column(inner, index)


def find_view(scope: Scope, relation: str) -> Scope | None:
    """Return the query of a view; what a materialized one holds may be of another time."""
    return None if relation in scope.catalog.materialized else open_view(scope.catalog, relation)


def is_total(scope: Scope, call: Node) -> bool:
    """Return whether a function gives no null when it is given none; some do so for some types alone."""
    name, arguments = scope.catalog.functions.get(call["funcid"]), listed(call["args"])
    if name in ("lower", "upper"):  # of a range without a bound they are null
        return bool(call["funcresulttype"] == TEXT)
    if name in CASTS and find_type(arguments[0]) in JSON:
        return False
    return name in TOTAL_FUNCTIONS or (name == "current_setting" and len(arguments) == 1)


def find_deciding(scope: Scope, call: Node) -> list[Node]:
    """Return the arguments of which a null may make the result one."""
    name, arguments = scope.catalog.functions.get(call["funcid"]), listed(call["args"])
    if name in CALLED_ON_NULL and call["funcvariadic"] == "false":  # of an array that is null they are
        return []
    return arguments[:1] if name in ("array_remove", "array_replace") else arguments


def find_type(expression: Node) -> str | None:
    """Return the number of an expression's type, where it is written on its node."""
    fields = ("vartype", "paramtype", "consttype", "funcresulttype", "opresulttype", "aggtype", "resulttype")
    others = ("coalescetype", "casetype", "wintype", "minmaxtype", "refrestype", "array_typeid", "typeId")
    return next((str(expression[field]) for field in (*fields, *others) if field in expression), None)


def find_filtered(scope: Scope) -> set[tuple[str, str]]:
    """Return the columns of which `where` lets no null through: `x is not null`, or a comparison."""
    found: set[tuple[str, str]] = set()
    operators = scope.catalog.operators
    for condition in conjuncts(scope.query["jointree"]["quals"] if scope.query["jointree"] else None):
        parts: list[Node] = []
        if condition[""] == "NULLTEST" and condition["nulltesttype"] == "1":
            parts = [condition["arg"]]
        elif operators.get(str(condition.get("opno"))) in TOTAL_OPERATORS:
            if condition[""] == "OPEXPR":
                parts = condition["args"]
            elif condition[""] == "SCALARARRAYOPEXPR" and condition["useOr"] == "true":  # = any (…)
                parts = condition["args"][:1]
        for part in map(unwrap, parts):
            if part[""] == "VAR" and part["varlevelsup"] == "0":
                found.add((part["varno"], part["varattno"]))
    return found
