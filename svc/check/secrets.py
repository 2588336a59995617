"""Where secrets get to: what comes out of a statement, what it writes, and what decides its rows.

A column is marked by its comment, `secret`. From there a secret is followed

- through expressions: whatever is made of it is as secret as it is, but for `count(row)`, `exists (…)` and an
  equality with a parameter, which tells nothing to one who does not know the value;
- through sub-queries, common table expressions, views, also those with rows of their own, functions in
  `from`, computed columns, whole rows, columns that hold rows of another table, parents and parts of a table;
- through functions: of one in SQL, what its tree gives; of one whose body PostgreSQL does not analyse, all
  that is secret of the tables, views and functions that its text names, and where it runs text, everything;
- into PostgreSQL's statistics, which keep values of columns.

What a trigger, a rule or a policy copies is not seen, nor what a function in C reads on its own account.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

from svc.check.catalog import Routine
from svc.check.fixpoint import Fixpoint
from svc.check.kinds import Entry, Param, Sublink
from svc.check.schema import Catalog
from svc.check.scope import Scope, find_aliased, open_body, open_view
from svc.check.tree import Node, listed, relabelled, walk, walk_own
from svc.postgres.catalog import Column

Found = frozenset[str]
"""Secret columns, by name."""

NONE: Found = frozenset()

KEEPERS = {"pg_statistic": r"stavalues\d", "pg_statistic_ext_data": r"stxdmcv|stxdexpr"}
"""Columns of PostgreSQL's own that keep values of other columns (its manual, "System Catalogs")."""

RUNNERS = re.compile(
    r"(?:query|table|schema|database|cursor)_to_xml\w*|ts_stat|ts_rewrite|pg_logical_slot_(?:get|peek)\w*"
    r"|pg_read_(?:binary_)?file|dblink\w*|crosstab\w*|connectby|xpath_table"
)
"""Functions of PostgreSQL's own and of its extensions that read what a text tells them to."""

WORD = re.compile(r"\w+")
RUNS_TEXT = frozenset(["execute", "dblink", "plpy", "spi_exec_query", "spi_query", "spi_prepare"])


class Secrets:
    """The secrets of one schema, and where they get to."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._known = Fixpoint(NONE)

    @cached_property
    def marked(self) -> dict[tuple[str, str], str]:
        """Return the name of each column that is marked."""
        return {key: str(column) for key, column in self.catalog.columns.items() if column.secret}

    @cached_property
    def all(self) -> Found:
        """Return the names of all secret columns."""
        return frozenset(self.marked.values())

    # What comes out

    def of_column(self, scope: Scope, index: int | None = None) -> Found:
        """Return the secrets in what comes out of a query: at `index`, from 0, or all of it."""
        return self._known.get((scope, index), lambda: NONE.union(*self._of_leaves(scope, index)))

    def _of_leaves(self, scope: Scope, index: int | None) -> Iterator[Found]:
        targets = scope.targets
        if operations := scope.query["setOperations"]:
            for node in walk(operations):
                if node[""] == "RANGETBLREF":
                    yield self.of_entry(scope, node["rtindex"], 0 if index is None else index + 1)
        else:
            for target in targets if index is None else [targets[index]]:
                yield self.of(scope, target["expr"])

    def _of_path(self, scope: Scope, entry: Node, inner: Scope) -> Found:
        """Return the secrets in what `search` and `cycle` make of the columns that they name."""
        table = scope.ancestor(entry["ctelevelsup"]).find_common_table(entry["ctename"])
        clauses = listed([table["search_clause"] or {}, table["cycle_clause"] or {}])
        named = [*clauses[0].get("search_col_list", ()), *clauses[1].get("cycle_col_list", ())]
        places = [place for place, name in enumerate(table["ctecolnames"]) if name in named]
        return NONE.union(*(self.of_column(inner, place) for place in places if place < len(inner.targets)))

    def of(self, scope: Scope, expression: Any) -> Found:
        """Return the secrets that have a part in the value of an expression, or of several."""
        if isinstance(expression, list):
            return NONE.union(*(self.of(scope, part) for part in listed(expression)))
        if not isinstance(expression, dict):
            return NONE
        return self._of_node(scope, cast("Node", expression))

    def _of_node(self, scope: Scope, expression: Node) -> Found:
        kind = expression[""]
        if kind == "VAR":
            owner = scope.ancestor(expression["varlevelsup"])
            return self.of_entry(owner, expression["varno"], int(expression["varattno"]))
        if kind == "QUERY":
            return self.of_column(scope.inside(expression))
        if self._tells_nothing(scope, expression):
            return NONE
        return self._of_parts(scope, expression)

    def _of_parts(self, scope: Scope, expression: Node) -> Found:
        kind = expression[""]
        if kind == "FIELDSELECT" and (relation := self._find_row(scope, expression["arg"])):
            return self.of_relation(relation, int(expression["fieldnum"]))
        if kind == "PARAM" and expression["paramkind"] == Param.MULTIPLE:  # update … set (a, b) = (select …)
            number, column = divmod(int(expression["paramid"]), 2**16)
            sublinks = [n for n in walk_own(scope.query["targetList"]) if n.get("subLinkId") == str(number)]
            return NONE.union(*(self.of_column(scope.inside(n["subselect"]), column - 1) for n in sublinks))
        return NONE.union(
            *self._of_called(expression), *(self.of(scope, part) for part in expression.values())
        )

    def _of_called(self, expression: Node) -> Iterator[Found]:
        """Yield the secrets that the function of a call or of an operator reads."""
        for field in ("funcid", "opfuncid", "aggfnoid", "winfnoid"):
            if number := expression.get(field):
                yield self.of_routine(number)

    def of_entry(self, scope: Scope, number: str, column: int) -> Found:
        """Return the secrets in a column of a range table's entry, or in all of it where that is 0."""
        entry = scope.entry(number)
        kind = entry["rtekind"]
        if column < 0:
            return NONE
        if kind == Entry.RELATION:
            return self.of_relation(entry["relid"], column)
        if kind in (Entry.SUBQUERY, Entry.CTE) and (inner := scope.inner(entry)):
            if column > len(inner.targets):
                return self._of_path(scope, entry, inner)
            return self.of_column(inner, column - 1 if column else None)
        if values := find_aliased(entry):
            return self.of(scope, values[column - 1] if column else values)
        if kind == Entry.VALUES and column:
            return self.of(scope, [row[column - 1] for row in entry["values_lists"]])
        if kind == Entry.FUNCTION and column and (body := self._find_body(entry)):
            given = entry["functions"][0]["funcexpr"]["args"]
            return self.of(scope, given) | self.of_column(body, column - 1)
        return self.of(scope, [entry.get(field) for field in ("values_lists", "functions", "tablefunc")])

    def _find_row(self, scope: Scope, expression: Node) -> str | None:
        """Return the relation whose row an expression is: a table's own, or one in a column of a table."""
        if expression[""] != "VAR":
            return None
        entry = scope.ancestor(expression["varlevelsup"]).entry(expression["varno"])
        if entry["rtekind"] != Entry.RELATION or expression["varattno"] == "0":
            return str(entry["relid"]) if entry["rtekind"] == Entry.RELATION else None
        column = self.catalog.columns.get((entry["relid"], expression["varattno"]))
        return str(column.row_of) if column and column.row_of else None

    # Where it is kept

    def of_relation(self, relation: str, column: int) -> Found:
        """Return the secrets in a column of a table or a view, or in all its columns where that is 0."""
        if not column:
            keys = [int(number) for owner, number in self.catalog.columns if owner == relation]
            return NONE.union(*(self.of_relation(relation, number) for number in keys))
        key = relation, str(column)
        return self._known.get(key, lambda: NONE.union(*self._of_stored(*key)))

    def _of_stored(self, relation: str, number: str) -> Iterator[Found]:
        column = self.catalog.columns.get((relation, number))
        if column is None:
            return
        if column.secret:
            yield frozenset([str(column)])
        if not column.own and re.fullmatch(KEEPERS.get(column.table_name, " "), column.name):
            yield self.all
        yield from self._of_sources(column, relation, number)

    def _of_sources(self, column: Column, relation: str, number: str) -> Iterator[Found]:
        """Yield the secrets of what a column is made of, or is a part of."""
        if column.row_of and str(column.row_of) != relation:
            yield self.of_relation(str(column.row_of), 0)
        if view := open_view(self.catalog, relation):
            yield self.of_column(view, int(number) - 1)
        for node in walk(self.catalog.expressions.get((relation, number))):
            if node[""] == "VAR":
                yield self.of_relation(relation, int(node["varattno"]))
            yield from self._of_called(node)
        for referred, other in self.catalog.references.get((relation, number), ()):
            yield self.of_relation(referred, int(other))
        for other, same in self._namesakes(relation, column):
            yield self.of_relation(other, same)

    def _namesakes(self, relation: str, column: Column) -> Iterator[tuple[str, int]]:
        """Yield the same column of the parents and the parts of a table."""
        for other in self._relatives.get(relation, ()):
            for (owner, number), same in self.catalog.columns.items():
                if owner == other and same.name == column.name:
                    yield other, int(number)

    @cached_property
    def _relatives(self) -> dict[str, set[str]]:
        """Return the parents and the parts of each table: what one holds may be read by way of the other."""
        found: dict[str, set[str]] = {}
        for relation, parents in self.catalog.parents.items():
            for parent in parents:
                found.setdefault(relation, set()).add(parent)
                found.setdefault(parent, set()).add(relation)
        return found

    # Functions

    def of_routine(self, number: str) -> Found:
        """Return the secrets that a function reads on its own account, not out of what it is given."""
        if name := self.catalog.functions.get(number):
            return self.all if RUNNERS.fullmatch(name) else NONE
        routine = self.catalog.routines.get(number)
        if routine is None:
            return NONE
        return self._known.get(("routine", number), lambda: NONE.union(*self._read(routine)))

    def _find_body(self, entry: Node) -> Scope | None:
        """Return the query whose columns a function in `from` gives, if that is seen: one of ours, in SQL."""
        calls: list[Node] = [function["funcexpr"] for function in entry["functions"]]
        routine = self.catalog.routines.get(str(calls[0].get("funcid"))) if len(calls) == 1 else None
        if routine is None or not routine.tree:
            return None
        *_, last = open_body(self.catalog, routine)
        return last if len(last.targets) == len(entry["eref"]["colnames"]) > 1 else None

    def _of_call(self, scope: Scope, entry: Node) -> Found:
        """Return the secrets that decide the rows of a function in `from`."""
        if body := self._find_body(entry):
            return self._of_all_rows(body) | self.of(scope, entry["functions"][0]["funcexpr"]["args"])
        return self.of(scope, entry["functions"])

    def _read(self, routine: Routine) -> Iterator[Found]:
        yield from (self.of_routine(str(part)) for part in routine.parts if part)
        if RUNNERS.fullmatch(routine.name):
            yield self.all
        elif routine.tree:
            *_, last = scopes = open_body(self.catalog, routine)
            yield self.of_column(last)
            yield from map(self._of_all_rows, scopes)
        elif routine.language not in ("c", "internal"):
            words = {word.casefold() for word in WORD.findall(routine.source)}
            yield self.all if words & RUNS_TEXT else NONE
            yield from (self.of_relation(number, 0) for number, name in self._names if name in words)
            for number, other in self.catalog.routines.items():
                if other is not routine and other.name.casefold() in words:
                    yield self.of_routine(number)

    @cached_property
    def _names(self) -> list[tuple[str, str]]:
        """Return each relation of ours, with its bare name."""
        columns = self.catalog.columns.items()
        found = {key[0]: column.table_name for key, column in columns if column.own}
        return [(number, WORD.findall(name)[-1].casefold()) for number, name in found.items()]

    # What decides

    def of_rows(self, scope: Scope) -> Found:
        """Return the secrets that decide which rows a query has, how many, in what order or in what groups.

        Those of the queries within it are not among them.
        """
        query = scope.query
        clauses = (
            *("jointree", "havingQual", "limitCount", "limitOffset"),
            *("mergeJoinCondition", "windowClause"),
        )
        deciding = [query.get(clause) for clause in clauses]
        deciding += [action["qual"] for action in listed(query.get("mergeActionList"))]
        if conflict := query.get("onConflict"):
            deciding += [conflict["arbiterWhere"], conflict["onConflictWhere"]]
        entries = [
            entry for entry in listed(query["rtable"]) if entry["rtekind"] not in (Entry.SUBQUERY, Entry.CTE)
        ]
        deciding += [entry.get(field) for entry in entries for field in ("tablefunc", "tablesample")]
        deciding += [target["expr"] for target in find_sorted(query)]
        operations = [node for node in walk_own(query["setOperations"]) if node.get("all") == "false"]
        views = [view for entry in entries if (view := open_view(self.catalog, str(entry.get("relid"))))]
        return self.of(scope, deciding).union(
            self.of_column(scope) if operations else NONE,
            *map(self._of_all_rows, views),
            *(self._of_call(scope, entry) for entry in entries if entry["rtekind"] == Entry.FUNCTION),
        )

    def _of_all_rows(self, scope: Scope) -> Found:
        """Return the secrets that decide the rows of a view's or a function's query, and of all in it."""
        scopes = [*scope.walk()]
        return self._known.get((scope, "rows"), lambda: NONE.union(*map(self.of_rows, scopes)))

    def find_writings(self, scope: Scope) -> Iterator[tuple[str, Found]]:
        """Yield each column that is no secret and into which a query writes one, with what it writes."""
        for column, expression in scope.find_assignments():
            known = self.of_relation(str(column.relation), column.number)
            if (found := self.of(scope, expression)) and not known:
                yield str(column), found

    # What tells nothing

    def _tells_nothing(self, scope: Scope, expression: Node) -> bool:
        """Return whether this is `exists (…)`, which its own rows decide, or one of those below."""
        if expression[""] == "SUBLINK" and expression["subLinkType"] == Sublink.EXISTS:
            return True
        return self._compares_with_parameter(scope, expression) or self._counts_rows(expression)

    def _compares_with_parameter(self, scope: Scope, expression: Node) -> bool:
        """Return whether this is `secret = :given`, or `secret = any (:given)`."""
        equality = expression[""] in ("OPEXPR", "SCALARARRAYOPEXPR") and expression.get("useOr") != "false"
        if not equality or self.catalog.operators.get(expression["opno"]) != "=":
            return False
        left, right = expression["args"]
        return any(
            self._is_bare(scope, value) and is_given(other) for value, other in ((left, right), (right, left))
        )

    def _is_bare(self, scope: Scope, expression: Node, depth: int = 0) -> bool:
        """Return whether an expression is a column as its table has it, by whatever way it comes."""
        expression = relabelled(expression)
        if expression[""] != "VAR" or int(expression["varattno"]) <= 0 or depth > 50:
            return False
        owner = scope.ancestor(expression["varlevelsup"])
        entry, index = owner.entry(expression["varno"]), int(expression["varattno"]) - 1
        if values := find_aliased(entry):
            return self._is_bare(owner, values[index], depth + 1)
        inner = owner.inner(entry)
        if entry["rtekind"] == Entry.RELATION:
            inner = open_view(self.catalog, entry["relid"])
        if inner is None:
            return bool(entry["rtekind"] == Entry.RELATION)
        plain = not inner.query["setOperations"] and index < len(inner.targets)
        return plain and self._is_bare(inner, inner.targets[index]["expr"], depth + 1)

    def _counts_rows(self, expression: Node) -> bool:
        """Return whether this is `count` of a whole row, which is never null."""
        if expression[""] != "AGGREF" or self.catalog.functions.get(expression["aggfnoid"]) != "count":
            return False
        arguments = [relabelled(argument["expr"]) for argument in listed(expression["args"])]
        plain = not (expression["aggfilter"] or expression["aggdistinct"] or expression["aggorder"])
        return plain and all(each[""] == "VAR" and each["varattno"] == "0" for each in arguments)


def is_given(expression: Node) -> bool:
    """Return whether a value is made of parameters and constants alone."""
    nodes = [*walk(expression)]
    outside = ("VAR", "SUBLINK", "QUERY", "AGGREF", "WINDOWFUNC", "CASETESTEXPR")
    return all(
        node[""] not in outside and (node[""] != "PARAM" or node["paramkind"] == Param.EXTERNAL)
        for node in nodes
    )


def find_sorted(query: Node) -> list[Node]:
    """Return the targets by which a query sorts, groups or leaves out what is equal."""
    clauses = [query[clause] for clause in ("sortClause", "groupClause", "distinctClause", "windowClause")]
    found = {node["tleSortGroupRef"] for node in walk_own(clauses) if "tleSortGroupRef" in node}
    return [target for target in listed(query["targetList"]) if target["ressortgroupref"] in found - {"0"}]
