"""One query and those within it: its columns, its range table, the queries behind both."""

from collections.abc import Iterator
from typing import NamedTuple

from svc.check.catalog import Routine
from svc.check.kinds import Entry, Returned, Statement
from svc.check.schema import Catalog
from svc.check.tree import Node, listed, parse_queries, walk, walk_own
from svc.postgres.catalog import Column


class Parameters(NamedTuple):
    """Of a statement's parameters, by number: those that may be null, and arrays that may hold a null."""

    nullable: frozenset[str] = frozenset()
    holding: frozenset[str] = frozenset()


NO_PARAMETERS = Parameters()


class Scope:
    """One query, and the queries around it."""

    def __init__(
        self, query: Node, catalog: Catalog, parameters: Parameters, outer: "Scope | None" = None
    ) -> None:
        self.query = query
        self.catalog = catalog
        self.parameters = parameters
        self.outer = outer
        self.single: tuple[bool, set[str]] | None = None
        """Whether it has at most one row, and by which keys, once that is known."""
        self.present: bool | None = None
        """Whether it has at least one."""
        self._inside: dict[int, Scope] = {}
        self._tell_new_rows()

    def _tell_new_rows(self) -> None:
        """Say of the columns that `returning` gives of a changed row that it is the new one."""
        if self.query["commandType"] in (Statement.INSERT, Statement.UPDATE):
            for node in walk(self.query["returningList"]):
                if node.get("varreturningtype") == "0":
                    node["varreturningtype"] = Returned.NEW

    def inside(self, query: Node) -> "Scope":
        """Return a query within this one: the same object each time, which keeps what is known."""
        if id(query) not in self._inside:
            self._inside[id(query)] = Scope(query, self.catalog, self.parameters, self)
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
        selects = self.query["commandType"] == Statement.SELECT
        targets = listed(self.query["targetList" if selects else "returningList"])
        return [target for target in targets if target["resjunk"] == "false"]

    def find_assignments(self) -> "Iterator[tuple[Column, Node]]":
        """Yield each column that an insert, an update or a merge sets, with what it sets it to."""
        query = self.query
        changes = query["commandType"] in (Statement.INSERT, Statement.UPDATE)
        lists = [listed(query["targetList"]) if changes else []]
        lists += [listed(action["targetList"]) for action in listed(query.get("mergeActionList"))]
        if conflict := query.get("onConflict"):
            lists.append(listed(conflict["onConflictSet"]))
        for target in (target for targets in lists for target in targets if target["resjunk"] == "false"):
            relation = self.entry(query["resultRelation"])["relid"]
            yield self.catalog.columns[relation, target["resno"]], target["expr"]

    def is_altered(self) -> bool:
        """Return whether something else has a say in what it writes: a trigger, a rule, a view, a server."""
        relation, kind = self.entry(self.query["resultRelation"])["relid"], self.query["commandType"]
        kinds = {kind, Statement.UPDATE} if self.query["onConflict"] else {kind}
        if any(relation in parents for parents in self.catalog.parents.values()):
            kinds.add(Statement.INSERT)  # as which an update moves a row to another part
        return not self.catalog.altering.isdisjoint((relation, each) for each in kinds)

    def entry(self, number: str) -> Node:
        """Return an entry of the range table."""
        found: Node = self.query["rtable"][int(number) - 1]
        return found

    def inner(self, entry: Node) -> "Scope | None":
        """Return the query behind a sub-query's or a common table expression's entry."""
        if entry["rtekind"] == Entry.SUBQUERY:
            return self.inside(entry["subquery"])
        if entry["rtekind"] == Entry.CTE:
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

    def chain(self) -> "Iterator[Scope]":
        """Yield this query and those around it, inside out."""
        yield self
        if self.outer:
            yield from self.outer.chain()

    def ancestor(self, levels: str) -> "Scope":
        """Return the query so many levels up."""
        scope = self
        for _ in range(int(levels)):
            if scope.outer is None:
                raise LookupError("a variable of a query that is not there")
            scope = scope.outer
        return scope


def open_view(catalog: Catalog, relation: str) -> Scope | None:
    """Return the query of a view, the same object each time; None for what is no view, or is not known."""
    if relation in catalog.views and relation not in catalog.opened:
        catalog.opened[relation] = Scope(catalog.views[relation], catalog, NO_PARAMETERS)
    return catalog.opened.get(relation)


def open_body(catalog: Catalog, routine: Routine, parameters: Parameters = NO_PARAMETERS) -> list[Scope]:
    """Return the queries of a function that PostgreSQL has analysed, the same objects each time."""
    key = routine.number, parameters
    if key not in catalog.opened:
        queries = parse_queries(routine.tree or "()")
        catalog.opened[key] = [Scope(query, catalog, parameters) for query in queries]
    scopes: list[Scope] = catalog.opened[key]
    return scopes


def find_aliased(entry: Node) -> list[Node]:
    """Return what the columns of a join or of groups stand for; nothing for other entries."""
    field = {Entry.JOIN: "joinaliasvars", Entry.GROUP: "groupexprs"}.get(entry["rtekind"])
    return listed(entry[field]) if field else []
