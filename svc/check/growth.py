"""What a hot query examines: no more rows as its tables grow, whatever its parameters are.

Theory of operation. The plan looked at is the generic one, which every later execution uses. A *probe* gives
each parameter a value: null where it may be, else one that is in the first row; and then varies one of them:
before all rows, in the first or in all, behind all or in none. On tables with few rows, those probes are
suspects that examine more than a limit lets through and a bit. Of these, what examines more than twice as
many rows of large tables grows with them.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import msgspec

from svc.check.findings import Finding, find, find_parameter
from svc.check.laboratory import PATIENCE, ROWS, find_nulls, pick, sample
from svc.check.prove import EXPLAIN, declared_parameters, type_name
from svc.check.scratch import ScratchConnection
from svc.check.tree import walk
from svc.postgres.queries import Signature
from svc.postgres.statements import Query

BOUNDED = 50
"""Rows that a hot query may examine of a small table, beyond what limits let through, without suspicion."""

PROBES = [sample(0, ""), sample(1, "v@1"), sample(30_000, "~")]
"""What is before all rows, in the first one, behind all: of a boolean, what no row has and what all have."""


class Probe(NamedTuple):
    """Values of the parameters: which are null, and which one is varied, with which sample."""

    nulls: tuple[bool, ...]
    varied: int | None = None
    sample: int = 1


def make_probes(types: Sequence[Any]) -> list[Probe]:
    """Return a probe without all that may be null, and each other value of each parameter."""
    optional = find_nulls(types)
    nulls = tuple(number in optional for number in range(len(types)))
    varied = [Probe(nulls, number, sample) for number in range(len(types)) for sample in range(len(PROBES))]
    return [Probe(nulls), *varied]


def count_examined(node: Mapping[str, Any]) -> int:
    """Return how many rows of a table a node of a plan has looked at, whatever became of them."""
    if "Relation Name" not in node or "Scan" not in node["Node Type"]:
        return 0
    removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
    return int((node["Actual Rows"] + removed) * node["Actual Loops"])


def is_hot(query: Query) -> bool:
    """Return whether it is to be proven of a query; a plan is made of no rows."""
    return "hot" in query.annotations and not EXPLAIN.match(query.sql)


class Growth:
    """One hot query on tables that grow; nothing of what it does is left behind."""

    def __init__(
        self,
        connection: ScratchConnection,
        labels: Mapping[str, Sequence[str]],
        query: Query,
        signature: Signature,
    ) -> None:
        self.connection = connection
        self.labels = labels
        self.query = query
        self.parameters = declared_parameters(query, signature)
        self.walked = set[str]()
        """The names of the indexes that it walks."""
        self.suspects: dict[Probe, int] | None = None
        """How many rows it examines of few, beyond what it has use for; None where that was not probed."""

    async def probe(self) -> None:
        """Find with which values it examines more than it has use for, of tables with few rows."""
        types = (await self.connection.prepare(self.query.sql)).get_parameters()
        probes = make_probes([self.parameters[name] for name in self.query.parameters])
        async with self._prepared(types):
            examined = {probe: await self._examine(types, probe) for probe in probes}
        self.suspects = {probe: rows for probe, rows in examined.items() if rows > BOUNDED}

    async def check(self) -> list[Finding]:
        """Find whole tables that are read, and parameters with which more rows are examined than of few."""
        types = (await self.connection.prepare(self.query.sql)).get_parameters()
        async with self._prepared(types):
            nodes = await self._explain("explain (format json)", ["null"] * len(types))
            suspects = self.suspects or {}
            growing = {
                probe for probe, few in suspects.items() if await self._examine(types, probe) > 2 * few
            }
        self.walked = {node["Index Name"] for node in nodes if "Index Name" in node}
        scans = [node["Relation Name"] for node in nodes if node.get("Node Type") == "Seq Scan"]
        found = [self._miss(f"an index on {table}", "it reads the whole table") for table in scans]
        if found or self.suspects is None:
            return found
        return [*self._check_growth({probe.varied for probe in growing})]

    def _check_growth(self, growing: Set[int | None]) -> Iterator[Finding]:
        """Find parameters with which ever more rows are examined as the table grows, and needless marks."""
        marked = self.query.unindexed
        names = {self.query.parameters[number] for number in growing if number is not None}
        if None in growing:
            yield self._miss("as many rows examined in a large table as in a small one", "ever more of them")
            return
        for name in sorted(names - marked):
            expected = f"an index that finds :{name}, or a mark: -- @unindexed: {name}: why"
            yield self._miss(expected, "ever more rows examined as the table grows", name)
        for name in sorted(marked - names):
            yield find(self.query, "annotation", f"no @unindexed for {name}", "an index finds it")

    def _miss(self, expected: str, found: str, name: str | None = None) -> Finding:
        at = find_parameter(self.query, name) if name else None
        return find(self.query, "plan", f"{expected}, since it is @hot", found, at)

    @asynccontextmanager
    async def _prepared(self, types: Sequence[Any]) -> AsyncGenerator[None]:
        """Have the query prepared for a while as `hot`, with one plan for all parameters."""
        declared = f" ({', '.join(type_name(type_) for type_ in types)})" if types else ""
        await self.connection.execute("set plan_cache_mode = force_generic_plan")
        await self.connection.execute(f"prepare hot{declared} as {self.query.sql}")
        try:
            yield
        finally:
            await self.connection.execute("deallocate hot")
            await self.connection.execute("reset plan_cache_mode")

    async def _explain(self, how: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
        """Return the nodes of its plan."""
        given = f" ({', '.join(arguments)})" if arguments else ""
        text = await self.connection.fetchval(f"{how} execute hot{given}")
        return [node for node in walk(msgspec.json.decode(text)) if "Node Type" in node]

    async def _examine(self, types: Sequence[Any], probe: Probe) -> int:
        """Return how many rows of tables it examines, but for those that a limit lets through."""
        pairs = zip(types, probe.nulls, strict=True)
        values = [None if null else pick(type_, PROBES[1], self.labels) for type_, null in pairs]
        if probe.varied is not None:
            values[probe.varied] = pick(types[probe.varied], PROBES[probe.sample], self.labels)
        texts = ", ".join(
            f"quote_nullable(${n}::{type_name(type_)}::text)" for n, type_ in enumerate(types, 1)
        )
        how = "explain (analyze, format json, costs off, timing off, summary off, buffers off)"
        try:
            async with self.connection.undone(PATIENCE):
                literals = await self.connection.fetchrow(f"select {texts}", *values)
                nodes = await self._explain(how, [*(literals or ())])
        except asyncpg.QueryCanceledError:
            return 2 * ROWS
        except asyncpg.PostgresError:  # a key that is taken, a value out of range
            return 0
        found = [node for node in nodes if node["Node Type"] == "Limit"]
        limits = [node for node in found if node["Plans"][0]["Node Type"] != "Limit"]  # of two the inner one
        limited = sum(node["Actual Rows"] * node["Actual Loops"] for node in limits)
        return sum(map(count_examined, nodes)) - int(limited)
