"""Runs every proof on a scratch database, and tells what was found."""

import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from svc.check.findings import Finding, describe_mismatch, find, name_file
from svc.check.laboratory import Experiment, fill
from svc.check.prove import Proof, read_schema
from svc.check.rollout import check_rollout, read_release
from svc.check.source import check_source, is_checkout
from svc.config import Config, DatabaseUrl
from svc.http.resource import MACHINERY, Resource, collect_queries
from svc.http.wiring import Mistake, find_mistakes
from svc.postgres.catalog import PROVEN, Facts, read_proven
from svc.postgres.connection import Connection, connect
from svc.postgres.embedded import EmbeddedServer
from svc.postgres.mapping import find_struct, is_struct
from svc.postgres.migrations import migrate, read_files
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


async def check(config: Config, resources: Sequence[Resource], against: str | None = None) -> Report:
    """Prove everything on a database that may be changed: it is migrated, filled, and left so.

    Raises RolloutError where the release to check against cannot be read.
    """
    release = read_release(against) if against is not None else None
    await migrate(config)
    resources = [MACHINERY, *resources]
    pairs, found = read_pairs(resources)
    queries = [query for query, _ in pairs]
    found = list(dict.fromkeys([*found, *check_source(queries)]))
    if release:
        found += await check_rollout(await copy_database(config), release, queries)
    async with one_connection(config) as connection:
        proofs, facts = await prove_all(connection, pairs, resources)
    found += proofs
    whole = not any(finding.kind in ("sql", "signature") for finding in found)
    found += map(describe_mistake, find_mistakes(resources, facts if whole else None))
    if all(finding.warning for finding in found):
        served = {query.name for queries in collect_queries(resources) for query, _ in queries.pairs()}
        found += check_written({name: proven for name, proven in facts.items() if name in served})
    return Report(len(queries), len(find_structs(pairs, resources)), len(read_files()), found)


async def copy_database(config: Config) -> Config:
    """Return the same schema in a database of its own, to be rolled back."""
    async with one_connection(config) as connection:
        url = urlsplit(str(config.database_url))
        name = url.path[1:]
        await connection.execute(f'create database "{name}_rollout" template "{name}"')
    return msgspec.structs.replace(
        config, database_url=DatabaseUrl(urlunsplit(url._replace(path=f"/{name}_rollout")))
    )


async def prove_all(
    connection: Connection, pairs: Sequence[Pair], resources: Sequence[Resource], *, filled: bool = False
) -> tuple[list[Finding], dict[str, Facts]]:
    """Prove each query as it stands, then run what prepares, on tables that are filled unless they are."""
    schema = await read_schema(connection)
    proofs = [Proof(connection, schema, query, signature) for query, signature in pairs]
    answered = find_answered(resources)
    found = [finding for proof in proofs for finding in await proof.run(answered)]
    tables = {name.partition(".")[0] for proof in proofs for name in proof.facts.columns}
    tables -= {"migration_checksums"}  # which says what was applied
    if not filled:
        await fill(connection, schema, tables)
    broken = {finding.query for finding in found if finding.kind == "sql"}
    for query, signature in pairs:
        if query.name not in broken:
            found += await Experiment(connection, schema, query, signature).run()
    return found, {proof.query.name: proof.facts for proof in proofs}


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


def check_written(facts: dict[str, Facts]) -> list[Finding]:
    """Keep queries/proven.json as the proof has it, in a checkout; elsewhere it must be so already."""
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
async def one_connection(config: Config) -> AsyncGenerator[Connection]:
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
