"""Runs every proof on a scratch database, and tells what was found."""

import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from svc import errors
from svc.app import OPERATIONS
from svc.app import QUERIES as SERVED
from svc.catalog import PROVEN, CatalogQueries, Facts, read_proven
from svc.check.findings import Finding, describe_mismatch, find, name_file
from svc.check.laboratory import Experiment, fill
from svc.check.prove import Proof, read_schema
from svc.check.rollout import check_rollout, read_release
from svc.check.source import check_source, is_checkout
from svc.config import Config, DatabaseUrl
from svc.connection import Connection, connect
from svc.embedded import EmbeddedServer
from svc.errors import CONSTRAINTS
from svc.migrate import migrate
from svc.schema import read_files
from svc.seed import SeedQueries
from svc.sql import Signature, is_struct
from svc.statements import Query

QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

QUERIES = [*SERVED, SeedQueries]
"""Every class of queries. A service does without the seed's: it neither proves nor misses them."""

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


async def check(config: Config, against: str | None = None) -> Report:
    """Proves everything on a database that may be changed: it is migrated, filled, and left so.

    Raises RolloutError where the release to check against cannot be read.
    """
    release = read_release(against) if against is not None else None
    await migrate(config)
    pairs, found = read_pairs()
    queries = [query for query, _ in pairs]
    found = list(dict.fromkeys([*found, *check_source(queries)]))
    if release:
        found += await check_rollout(await copy_database(config), release, queries)
    async with one_connection(config) as connection:
        proofs, facts = await prove_all(connection, pairs, find_answered())
    found += proofs
    if all(finding.warning for finding in found):
        served = {query.name for queries in SERVED for query, _ in queries.pairs()}
        found += check_written({name: proven for name, proven in facts.items() if name in served})
    return Report(len(queries), len(find_structs(pairs)), len(read_files()), found)


async def copy_database(config: Config) -> Config:
    """The same schema in a database of its own, to be rolled back."""
    async with one_connection(config) as connection:
        url = urlsplit(str(config.database_url))
        name = url.path[1:]
        await connection.execute(f'create database "{name}_rollout" template "{name}"')
    return msgspec.structs.replace(
        config, database_url=DatabaseUrl(urlunsplit(url._replace(path=f"/{name}_rollout")))
    )


async def prove_all(
    connection: Connection, pairs: Sequence[Pair], answered: set[type], *, filled: bool = False
) -> tuple[list[Finding], dict[str, Facts]]:
    """Proves each query as it stands, then runs what prepares, on tables that are filled unless they are."""
    schema = await read_schema(connection)
    known = await CatalogQueries.bind(connection).list_constraints()
    proofs = [Proof(connection, schema, query, signature) for query, signature in pairs]
    found = [find_lost(name) for name in CONSTRAINTS.keys() - known]
    found += [finding for proof in proofs for finding in await proof.run(answered)]
    tables = {name.partition(".")[0] for proof in proofs for name in proof.facts.columns}
    tables -= {"migration_checksums"}  # which says what was applied
    if not filled:
        await fill(connection, schema, tables)
    broken = {finding.query for finding in found if finding.kind == "sql"}
    for query, signature in pairs:
        if query.name not in broken:
            found += await Experiment(connection, schema, query, signature).run()
    return found, {proof.query.name: proof.facts for proof in proofs}


def find_lost(constraint: str) -> Finding:
    """A constraint that the table of errors speaks of and the schema does not have."""
    lines = Path(errors.__file__).read_text(encoding="utf-8").split("\n")
    line = next(number for number, text in enumerate(lines, 1) if f'"{constraint}"' in text)
    return Finding(
        kind="constraint",
        file=name_file(Path(errors.__file__)),
        line=line,
        query="-",
        expected=f"a constraint {constraint} in the schema",
        found="none",
    )


def check_written(facts: dict[str, Facts]) -> list[Finding]:
    """Keeps queries/proven.json as the proof has it, in a checkout; elsewhere it must be so already."""
    if facts == read_proven():
        return []
    if is_checkout():
        PROVEN.write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n")
        return []
    return [
        Finding(
            kind="proof",
            file=name_file(PROVEN),
            line=1,
            query="-",
            expected="what was proven now",
            found="what was proven of another release",
        )
    ]


def find_answered() -> set[type]:
    """Every struct that a response may hold, in however many others."""
    found: set[type] = set()
    waiting: list[Any] = [operation.returns for operation in OPERATIONS]
    while waiting:
        type_ = waiting.pop()
        waiting += get_args(type_)
        if is_struct(type_) and type_ not in found:
            found.add(type_)
            waiting += get_type_hints(type_).values()
    return found


def find_structs(pairs: Sequence[Pair]) -> set[type]:
    """Every struct that a query takes or gives, or a response holds."""
    used = [type_ for _, signature in pairs for type_ in (signature.row, *signature.parameters.values())]
    return {type_ for type_ in used if is_struct(type_)} | find_answered()


def read_pairs() -> tuple[list[Pair], list[Finding]]:
    """All queries that fit their signatures, and what does not fit. Two files have no query of one name."""
    pairs: list[Pair] = []
    found: list[Finding] = []
    for queries in QUERIES:
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
async def one_connection(config: Config) -> AsyncGenerator[Connection]:
    """A connection for as long as a block lasts."""
    connection = await connect(config)
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def scratch_database() -> Generator[Config]:
    """A new PostgreSQL, in a temporary folder, that is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="bareline-") as folder,
        EmbeddedServer(Path(folder), QUICK) as server,
    ):
        yield Config(database_url=DatabaseUrl(server.url), query_timeout=60)
