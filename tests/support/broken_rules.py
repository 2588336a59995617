"""Rules of the check, each broken in one place: the judge must notice."""

from typing import Any

from svc.check import nulls, rows
from svc.check.nulls import Nulls
from svc.check.scope import NO_PARAMETERS, Scope
from svc.check.secrets import Secrets
from svc.check.tree import Node


class Everything(frozenset[Any]):
    """A set in which everything is."""

    def __contains__(self, _: object) -> bool:
        return True


def blind_to_joins(self: Nulls, scope: Scope, variable: Node) -> bool:
    """What may be null before any join."""
    owner = scope.ancestor(variable["varlevelsup"])
    return self._of_entry(owner, variable["varno"], int(variable["varattno"]))


def own_columns_alone(self: Secrets, scope: Scope, index: int | None = None) -> frozenset[str]:
    """The secrets of a query that are not those of one within it."""
    plain = not scope.outer and not scope.query["setOperations"] and index is not None
    return self.of(scope, scope.targets[index]["expr"]) if plain else frozenset()


def unopposed(scope: Scope) -> Scope:
    """The same insert, of which no row was there before."""
    return Scope({**scope.query, "onConflict": None}, scope.catalog, scope.parameters, scope.outer)


GIVEN = Nulls._is_given

BROKEN: dict[str, tuple[object, str, Any]] = {
    "outer joins give no null": (Nulls, "_of_variable", blind_to_joins),
    "every function is total": (nulls, "is_total", lambda *_: True),
    "every operator is total": (nulls, "TOTAL_OPERATORS", Everything()),
    "casts of JSON are total": (nulls, "CASTS", frozenset[str]()),
    "aggregates give no null": (nulls, "COUNTS", Everything()),
    "filters are not needed": (nulls, "KEEPING", Everything()),
    "every sub-query has a row": (nulls, "is_present", lambda scope: True),
    "every column is compared": (nulls, "find_filtered", lambda scope: Everything()),
    "arrays hold no null": (Nulls, "in_array", lambda *_: False),
    "what is stored is never null": (Nulls, "_of_stored", lambda *_: False),
    "triggers change nothing": (Scope, "is_altered", lambda _: False),
    "functions are given no null": (nulls, "Parameters", lambda *_: NO_PARAMETERS),
    "an insert never becomes an update": (
        Nulls,
        "_is_given",
        lambda self, scope, *a: GIVEN(self, unopposed(scope), *a),
    ),
    "a limit is one": (rows, "read_number", lambda scope, expression: 1 if expression else None),
    "a lateral takes nothing": (rows, "find_lateral", lambda *_: set()),
    "every value is known": (rows, "is_known", lambda *_: True),
    "every column is fixed": (rows, "fixed_columns", lambda *_: map(str, range(1, 20))),
    "every insert returns": (rows, "returns_always", lambda query: True),
    "every from has a row": (rows, "joins_some", lambda scope: True),
    "every merge is of one": (rows, "merges_one", lambda *_: True),
    "what is stored is made of nothing": (Secrets, "_of_sources", lambda *_: iter(())),
    "functions read nothing": (Secrets, "of_routine", lambda *_: frozenset()),
    "a column has no secret": (Secrets, "of_relation", lambda *_: frozenset()),
    "sub-queries have no secret": (Secrets, "of_column", own_columns_alone),
}
"""Rules of the check, each broken in one place."""
