"""Runs every proof on a scratch database, and tells what was found."""

import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct, structs

from svc.check.catalog import ANALYSIS
from svc.check.drift import Snapshot, compare, read_snapshot
from svc.check.findings import Finding, Kind, describe_mismatch, find, name_file
from svc.check.footprint import complete
from svc.check.growth import Growth, is_hot
from svc.check.laboratory import FEW, ROWS, fill
from svc.check.prove import Proof, Schema, read_schema
from svc.check.rollout import check_rollout, read_release
from svc.check.scratch import ScratchConnection, connect
from svc.check.source import check_source, is_checkout
from svc.check.trials import Experiment
from svc.check.types import split_secret
from svc.check.wiring import Mistake, find_mistakes
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.embedded import EmbeddedServer
from svc.http.resource import MACHINERY, Resource, collect_queries
from svc.migrations import migrate, read_files
from svc.postgres.catalog import CatalogQueries
from svc.postgres.mapping import find_struct, is_struct
from svc.postgres.proven import PROVEN, Written, read_written
from svc.postgres.queries import Signature
from svc.postgres.statements import Query

QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

Pair = tuple[Query, Signature]


class Report(Struct, frozen=True):
    """What `svc check --json` prints."""

    queries: int
    structs: int
    migrations: int
    findings: list[Finding]

    @property
    def agrees(self) -> bool:
        """Whether there is nothing but warnings."""
        return all(finding.warning for finding in self.findings)

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings]
        errors = sum(not finding.warning for finding in self.findings)
        verdict = f"{errors} disagreements" if errors else "all agree"
        counted = f"{self.queries} queries, {self.structs} structs, {self.migrations} migrations: {verdict}"
        return "\n".join([*lines, counted])


async def check(
    config: Config, resources: Sequence[Resource], against: str | None = None, *, accept: bool = False
) -> Report:
    """Prove everything on a database that may be changed: it is migrated, filled, and left so.

    Where all agrees, what was proven is written down; `accept` lets marks of secrets go. Raises
    RolloutError where the release to check against cannot be read.
    """
    release = read_release(against) if against is not None else None
    await migrate(config)
    resources = [MACHINERY, ANALYSIS, *resources]
    pairs, found = read_pairs(resources)
    queries = [query for query, _ in pairs]
    revealer = next((resource.revealer for resource in resources if resource.revealer), "")
    found = list(dict.fromkeys([*found, *check_source(queries, revealer)]))
    if release:
        found += await check_rollout(await copy_database(config), release, queries)
    async with one_connection(config) as connection:
        findings, proven, snapshot = await prove_all(connection, pairs)
    found += [*findings, *find_exposed(resources)]
    whole = not any(finding.kind in ("sql", "signature") for finding in found)
    found += map(describe_mistake, find_mistakes(resources, proven.queries if whole else None))
    found += [] if accept else [*find_lost(proven), *find_changed(proven, snapshot, queries)]
    if all(finding.warning for finding in found):
        served = {query.name for queries in collect_queries(resources) for query, _ in queries.pairs()}
        found += check_written(narrow(proven, served))
    return Report(len(queries), len(find_structs(pairs, resources)), len(read_files()), found)


async def copy_database(config: Config) -> Config:
    """Return the same schema in a database of its own, to be rolled back."""
    async with one_connection(config) as connection:
        url = urlsplit(str(config.database_url))
        name = url.path[1:]
        await connection.execute(f'create database "{name}_rollout" template "{name}"')
    return structs.replace(
        config, database_url=DatabaseUrl(urlunsplit(url._replace(path=f"/{name}_rollout")))
    )


class Proofs(NamedTuple):
    """What was found of all queries, what was proven of them, and the schema as it is."""

    findings: list[Finding]
    proven: Written
    snapshot: Snapshot


async def prove_all(connection: ScratchConnection, pairs: Sequence[Pair], *, filled: bool = False) -> Proofs:
    """Prove each query as it stands, then run what prepares, on tables that are filled unless they are."""
    schema = await read_schema(connection)
    proofs = [Proof(connection, schema, query, signature) for query, signature in pairs]
    found = [finding for proof in proofs for finding in await proof.run()]
    footprints = [proof.footprint for proof in proofs]
    old = [*read_written().queries.values()]
    snapshot = await read_snapshot(CatalogQueries.bind(connection), [*footprints, *old])
    broken = {finding.query for finding in found if finding.kind == "sql"}
    whole = [pair for pair in pairs if pair[0].name not in broken]
    hot = [Growth(connection, schema.labels, *pair) for pair in whole if is_hot(pair[0])]
    tables = {name for each in footprints for name in each.relations} - {"migration_checksums"}
    found += [] if filled else await fill_twice(connection, schema, tables, hot)
    for pair in whole:
        found += await Experiment(connection, schema, *pair).run()
    for growth in hot:
        found += await growth.check()
    walked = {growth.query.name: growth.walked for growth in hot}
    found += [finding for proof in proofs for finding in complete_footprint(proof, snapshot, walked)]
    proven = {proof.query.name: proof.footprint for proof in proofs}
    relied = [fact for fact in snapshot.facts if any(each.relies_on(fact) for each in footprints)]
    return Proofs(found, Written(sorted(schema.secrets.all), relied, proven), snapshot)


async def fill_twice(
    connection: ScratchConnection, schema: Schema, tables: set[str], hot: Sequence[Growth]
) -> list[Finding]:
    """Fill tables with few rows, see what hot queries examine, then with many; find what stays empty."""
    await fill(connection, schema, tables, FEW)
    for growth in hot:
        await growth.probe()
    empty = await fill(connection, schema, tables, ROWS)
    return [report_file("trial", f"rows in {table}", reason) for table, reason in empty.items()]


def complete_footprint(proof: Proof, snapshot: Snapshot, walked: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Add what shows in the schema and in plans to a footprint; find indexes that a hot query has none of."""
    query = proof.query
    for key in complete(proof.footprint, snapshot.facts, walked.get(query.name, set())):
        if "hot" in query.annotations:
            expected = f"an index on {key}, since it is @hot and looks there for rows that refer"
            yield find(query, "plan", expected, "none")


def describe_mistake(mistake: Mistake) -> Finding:
    """Return what was forgotten as a finding."""
    return Finding(
        kind="wiring",
        file=name_file(mistake.path),
        line=mistake.line,
        query="-",
        expected=f"{mistake.subject}: {mistake.expected}",
        found=mistake.found,
    )


def find_lost(proven: Written) -> Iterator[Finding]:
    """Yield the columns that lost their mark: misspelt, taken away, or gone with the column."""
    for name in sorted({*read_written().secrets} - {*proven.secrets}):
        expected = f"{name} is marked secret, as it was; or `svc check --accept`"
        yield report_file("secret", expected, "no such mark")


def find_changed(proven: Written, now: Snapshot, queries: Sequence[Query]) -> Iterator[Finding]:
    """Yield what matters to queries and is not as it was when they were proven last, whatever they are now.

    A new constraint is no change here: whoever adds one has to say in a resource what it answers.
    """
    written, known = read_written(), {query.name: query for query in queries}
    kept = {
        name: structs.replace(footprint, walks=written.queries[name].walks)
        for name, footprint in proven.queries.items()
        if name in written.queries
    }
    old = {fact.name for fact in written.schema}
    for query, name, said, _ in compare(Written([], written.schema, kept), now):
        if query in known and (name in old or not name.startswith("constraint ")):
            expected = "what was proven last; or `svc check --accept`"
            yield find(known[query], "drift", expected, said)


def narrow(proven: Written, names: Set[str]) -> Written:
    """Return what was proven of some queries alone."""
    queries = {name: footprint for name, footprint in proven.queries.items() if name in names}
    schema = [fact for fact in proven.schema if any(each.relies_on(fact) for each in queries.values())]
    return Written(proven.secrets, sorted(schema, key=lambda fact: (fact.name, fact.events)), queries)


def find_exposed(resources: Sequence[Resource]) -> Iterator[Finding]:
    """Yield the secrets that an answer would hold, which no answer can be made of."""
    for struct in find_answered(resources):
        for name, hint in get_type_hints(struct).items():
            if any(split_secret(part)[1] for part in (hint, *get_args(hint))):
                yield report_file("secret", "answers without secrets", f"{struct.__name__}.{name}")


def check_written(proven: Written) -> Iterator[Finding]:
    """Keep queries/proven.json as the proof has it, in a checkout; elsewhere it must be so already."""
    if proven != read_written():
        if is_checkout():
            PROVEN.write_bytes(proven.encode())
        else:
            yield report_file("proof", "what was proven now", "what was proven of another release")


def report_file(kind: Kind, expected: str, found: str) -> Finding:
    """Make a finding about no query: its place is the file of what was proven."""
    return Finding(kind=kind, file=name_file(PROVEN), line=1, query="-", expected=expected, found=found)


def find_answered(resources: Sequence[Resource]) -> set[type]:
    """Return every struct that a response may hold, in however many others."""
    found: set[type] = set()
    operations = [operation for resource in resources for operation in resource.operations]
    waiting: list[Any] = [struct for operation in operations for struct in operation.answers.values()]
    while waiting:
        type_ = waiting.pop()
        waiting += get_args(type_)
        if is_struct(type_) and type_ not in found:
            found.add(type_)
            waiting += get_type_hints(type_).values()
    return found


def find_structs(pairs: Sequence[Pair], resources: Sequence[Resource]) -> set[type]:
    """Return every struct that a query takes or gives, or a response holds."""
    used = [type_ for _, signature in pairs for type_ in (signature.row, *signature.parameters.values())]
    return {struct for type_ in used if (struct := find_struct(type_))} | find_answered(resources)


def read_pairs(resources: Sequence[Resource]) -> tuple[list[Pair], list[Finding]]:
    """Return all queries that fit their signatures, and what does not fit. No two have one name."""
    pairs: list[Pair] = []
    found: list[Finding] = []
    for queries in collect_queries(resources, offline=True):
        fitting, mismatches = queries.read()
        taken = {query.name: query for query, _ in pairs}
        for query, signature in fitting:
            if other := taken.get(query.name):
                found.append(find(other, "signature", "one query of this name", f"another one: {query}"))
            else:
                pairs.append((query, signature))
        found += [describe_mismatch(mismatch) for mismatch in mismatches]
    return pairs, found


@asynccontextmanager
async def one_connection(config: Config) -> AsyncGenerator[ScratchConnection]:
    """Give a connection for as long as a block lasts."""
    connection = await connect(config)
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def scratch_database() -> Generator[Config]:
    """Give a new PostgreSQL, in a temporary folder, that is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="bareline-") as folder,
        EmbeddedServer(Path(folder), QUICK) as server,
    ):
        yield Config(database_url=DatabaseUrl(server.url), query_timeout=60)
