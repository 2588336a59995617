"""How far the live schema is still as it was proven: queries/proven.json beside the live catalog.

Theory of operation. A query rests on more than the columns it names: on the default of those that it
leaves out, on constraints, triggers and rules of what it changes, on the body of a function, on an index.
`svc check` writes down what each query does and what of the schema matters to that (svc/postgres/proven.py).
At a start, for a probe and in the next `svc check` the same is read again. Whatever differs is
told with the queries that it matters to; some of it *breaks* a query, which then fails or returns something
else, and the rest does not: it is slower, or its rows can be refused for a new reason. Only what breaks is a
reason not to be ready: a newer release, whose migration may add a constraint, must not take this one out.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from svc.postgres.catalog import CatalogQueries, Column, Fact
from svc.postgres.proven import FUNCTION, KEY, NOT_NULL, Footprint, Written, read_written

logger = logging.getLogger("svc")

KINDS = frozenset(
    "children constraint default denial durability function row rule trigger type unique view".split()
)
"""How the names of facts begin that are not of a column."""

HARMLESS = frozenset(["constraint", "durability", "trigger"])
"""Those of them that break no query, whatever becomes of them: what it does may have other consequences."""

NO_VALUE = "none, and no null"
"""The default of a column that an insert must name."""


class Difference(NamedTuple):
    """Something that matters to a query and is not as it was proven."""

    query: str
    name: str
    said: str
    breaks: bool

    def __str__(self) -> str:
        return f"{self.query}: {self.said}"


class Snapshot(NamedTuple):
    """What of the live schema matters to some queries."""

    facts: list[Fact]
    secrets: list[str]


async def read_snapshot(queries: CatalogQueries, footprints: Sequence[Footprint]) -> Snapshot:
    """Read what matters to the queries with these footprints."""
    relations = {name for each in footprints for name in each.relations}
    functions = {name for each in footprints for name in each.names if name.startswith(FUNCTION)}
    columns = [
        column for column in await queries.list_columns(system=False) if column.table_name in relations
    ]
    keys = await queries.list_unique_keys(system=False)
    facts = await queries.list_facts(
        relations=sorted(relations), functions=[name.removeprefix(FUNCTION) for name in sorted(functions)]
    )
    facts += [Fact(f"{KEY}{key}", "", key.table_name, []) for key in keys]
    return Snapshot(
        [fact for column in columns for fact in describe_column(column)] + facts,
        [str(column) for column in columns if column.secret],
    )


def describe_column(column: Column) -> Iterator[Fact]:
    """Yield what a column holds, for those that name it, and its default, for inserts without it."""
    text = f"{column.kind}{NOT_NULL}" if column.not_null else column.kind
    yield Fact(str(column), text, column.table_name, ["set"], [column.name])
    default = NO_VALUE if column.needs_value else column.default_value or "null"
    yield Fact(f"default of {column}", default, column.table_name, ["omit"], [column.name])


class Watch:
    """Looks at the live schema, and tells the log of each difference once."""

    def __init__(self, queries: CatalogQueries) -> None:
        self._queries = queries
        self._told = frozenset[str]()

    async def look(self) -> list[Difference]:
        """Return what is not as it was proven, for each query that is served."""
        written = read_written()
        found = [*compare(written, await read_snapshot(self._queries, [*written.queries.values()]))]
        said: dict[str, list[str]] = {}
        for difference in found:
            said.setdefault(difference.said, []).append(difference.query)
        for each, queries in said.items():
            if each not in self._told:
                logger.warning("not as proven: %s (matters to %s)", each, ", ".join(queries))
        self._told = frozenset(said)
        return found


def compare(written: Written, now: Snapshot) -> Iterator[Difference]:
    """Yield what differs for each query; most often nothing does, and none is asked what it relies on."""
    there = {fact.name for fact in now.facts}
    changed = {name for name, _ in find_texts(written.schema) ^ find_texts(now.facts)}
    old = [fact for fact in written.schema if fact.name in changed]
    new = [fact for fact in now.facts if fact.name in changed]
    lost = {*written.secrets} - {*now.secrets}
    for query, footprint in written.queries.items():
        before = {fact.name: fact for fact in old if footprint.relies_on(fact)}
        after = {fact.name: fact for fact in new if footprint.relies_on(fact)}
        gone = [name for name in footprint.names if name not in there]
        for name in dict.fromkeys([*gone, *before, *after]):
            if said := differ(name, before.get(name), after.get(name), footprint):
                yield Difference(query, name, *said)
        for name in footprint.find_unwalkable(now.facts):
            yield Difference(query, name, f"there is no {name}", breaks=False)
        for fact in written.schema if lost else ():
            if fact.name in lost & there and footprint.relies_on(fact):
                yield Difference(query, fact.name, f"{fact.name} is not marked secret", breaks=False)


def find_texts(facts: Sequence[Fact]) -> set[tuple[str, str]]:
    """Return the names of facts with their texts."""
    return {(fact.name, fact.text) for fact in facts}


def differ(
    name: str, before: Fact | None, after: Fact | None, footprint: Footprint
) -> tuple[str, bool] | None:
    """Return how something differs from what it was, and whether that breaks a query; None if it does not."""
    kind = name.partition(" ")[0]
    if after is None:
        return None if kind == "default" else (f"there is no {name}", kind not in HARMLESS)
    if kind == "default":
        return differ_in_default(before, after, footprint)
    if before is None:  # what a query names or sets is there, as it should be
        named = name in footprint.names or kind not in KINDS
        return None if named else (f"{name} is new: {after.text}", breaks(kind, after))
    if before.text == after.text:
        return None
    if kind not in KINDS and before.text.removesuffix(NOT_NULL) == after.text.removesuffix(NOT_NULL):
        hit = name in (footprint.nulls if after.text.endswith(NOT_NULL) else footprint.not_null)
        return (f"{name} is {after.text}, proven as {before.text}", True) if hit else None
    harmless = widens(before.text, after.text) or not breaks(kind, after)
    return f"{name} is {after.text}, proven as {before.text}", not harmless


def differ_in_default(before: Fact | None, after: Fact, footprint: Footprint) -> tuple[str, bool] | None:
    """Return how the default of a column differs that an insert leaves out."""
    (column,) = after.columns
    name = f"{after.relation}.{column}"
    if before and before.text == after.text:
        return None
    if after.text == NO_VALUE:
        return f"{name} needs a value", True
    return (
        (f"{after.name} is {after.text}, proven as {before.text}", name in footprint.names)
        if before
        else None
    )


INTEGERS = ("smallint", "integer", "bigint")
TEXT = re.compile(r"(?:character varying(?:\((\d+)\))?|text)( not null)?")


def widens(before: str, after: str) -> bool:
    """Return whether a type holds all that it held: longer texts, larger integers, more labels of an enum."""
    one, other = before.removesuffix(NOT_NULL), after.removesuffix(NOT_NULL)
    if before.endswith(NOT_NULL) != after.endswith(NOT_NULL):
        return False
    if one in INTEGERS and other in INTEGERS:
        return INTEGERS.index(one) <= INTEGERS.index(other)
    if (short := TEXT.fullmatch(before)) and (long := TEXT.fullmatch(after)):
        return long[1] is None or (short[1] is not None and int(short[1]) <= int(long[1]))
    labels, more = before.removeprefix("enum ").split(", "), after.removeprefix("enum ").split(", ")
    return before.startswith("enum ") and {*labels} <= {*more}


def breaks(kind: str, after: Fact) -> bool:
    """Return whether a query fails or returns something else where something is new or changed."""
    if kind in ("rule", "row"):
        return after.applies
    return kind not in HARMLESS
