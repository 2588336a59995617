"""The check's verdicts on queries over one rich schema: as written down, and never refuted by rows that come."""

import asyncio
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from svc.check import nulls, rows
from svc.check.nulls import Nulls
from svc.check.prove import Proof, Schema, read_schema
from svc.check.rows import is_present, is_single
from svc.check.scope import Scope
from svc.check.scratch import connect
from svc.check.secrets import Secrets
from svc.check.tree import Node
from svc.config import DatabaseUrl
from svc.postgres.queries import Signature
from svc.postgres.statements import Query, read_queries
from tests.support import NUMBERS, TEMPLATE, at, make_config
from tests.support.conformance import Verdict, fill, find_lies, make_arguments, prepare
from tests.support.proofs import having

FOLDER = Path(__file__).parent / "conformance"
QUERIES = [
    query
    for path in sorted(FOLDER.glob("*.sql"))
    if path.name != "schema.sql"
    for query in read_queries(path.read_text(encoding="utf-8"), path).values()
]
FILLS = 12

TYPES: dict[str, Any] = {"id": int, "n": int, "name": str, "ids": list[int], "names": list[str]}


@pytest.fixture(scope="module")
def made(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[DatabaseUrl]:
    """A database with the rich schema."""
    with having(server_url, admin, (FOLDER / "schema.sql").read_text(encoding="utf-8")) as url:
        yield url


def declare(query: Query) -> Signature:
    """The types of a query's parameters, by their names."""
    types = {name: TYPES[name.removeprefix("maybe_")] for name in query.parameters}
    optional = {name: type_ | None if name.startswith("maybe_") else type_ for name, type_ in types.items()}
    return Signature(query.name, optional, None, many=False, optional=False)


Verdicts = dict[str, tuple[str, Verdict]]


@pytest.fixture(scope="module")
def verdicts(made: DatabaseUrl) -> Verdicts:
    """What the check says of each query: in words, and for the judge."""
    return asyncio.run(judge_all(made))


async def judge_all(url: DatabaseUrl) -> Verdicts:
    """The check's verdict on each query."""
    connection = await connect(make_config(url))
    try:
        schema, found = await read_schema(connection), Verdicts()
        for query in QUERIES:
            statement = await connection.prepare(query.sql)
            scope = await Proof(connection, schema, query, declare(query))._analyse(statement)
            arrays = [attribute.type.kind == "array" for attribute in statement.get_attributes()]
            found[query.name] = judge(schema, scope, arrays)
        return found
    finally:
        await connection.close()


def judge(schema: Schema, scope: Scope, arrays: list[bool]) -> tuple[str, Verdict]:
    """The check's verdict on one query."""
    columns = range(len(scope.targets))
    writes = any(written for each in scope.walk() for written in schema.secrets.find_writings(each))
    verdict = Verdict(
        nullable=tuple(schema.nulls.of_column(scope, index) for index in columns),
        holding=tuple(array and schema.nulls.in_column(scope, index) for index, array in enumerate(arrays)),
        secret=tuple(writes or bool(schema.secrets.of_column(scope, index)) for index in columns),
        single=is_single(scope, set()),
        present=is_present(scope),
    )
    secrets = [bool(schema.secrets.of_column(scope, index)) for index in columns]
    said = " ".join(
        target["resname"] + "?" * nullable + ("[?]" if holds else "[]") * array + "!" * secret
        for target, nullable, holds, secret, array in zip(
            scope.targets, verdict.nullable, verdict.holding, secrets, arrays, strict=True
        )
    )
    rows = f"{'1' if verdict.present else '0'}..{'1' if verdict.single else 'n'}"
    decides = any(schema.secrets.of_rows(each) for each in scope.walk())
    return " | ".join([said or "-", rows, *["decides!"] * decides, *["writes!"] * writes]), verdict


def test_there_are_many_queries() -> None:
    assert len(QUERIES) == len({query.name for query in QUERIES}) >= 300


NEWER = [
    (18, " virtual", " stored"),
    (18, ", primary key (room, during without overlaps)", ""),
    (18, "constraint has_name not null name no inherit", "check (name is not null) no inherit"),
]
"""What only PostgreSQL of a version knows of the schema, and what is there before."""


def test_each_query_prepares_on_the_version_that_it_needs(
    server_url: DatabaseUrl, admin: Callable[[str], None]
) -> None:
    name, schema = f"{TEMPLATE}_{next(NUMBERS)}", (FOLDER / "schema.sql").read_text(encoding="utf-8")
    admin(f"create database {name} template template0")
    with psycopg.connect(at(server_url, name)) as connection:
        version = connection.info.server_version // 10_000
        for needed, new, old in NEWER:
            schema = schema.replace(new, old) if version < needed else schema
        connection.execute(schema.encode())
        for query in QUERIES:
            if int(query.annotations["needs"]) <= version:
                result = connection.pgconn.prepare(b"", query.sql.encode())
                assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, (query.name, result.error_message)
    admin(f"drop database {name} with (force)")


def test_each_verdict_is_as_it_is_written_down(verdicts: Verdicts) -> None:
    written = {query.name: query.annotations["expect"] for query in QUERIES}
    assert {name: said for name, (said, _) in verdicts.items()} == written


def look_for_lies(url: DatabaseUrl, verdicts: Verdicts, fills: int) -> Iterator[str]:
    """What rows that really come say against the verdicts."""
    for number in range(fills):
        with psycopg.connect(url) as connection:
            prepare(connection)
            fill(connection, random.Random(number))
            for query in QUERIES:
                dice = random.Random(number + zlib.crc32(query.name.encode()))
                arguments = make_arguments(dice, query.parameters)
                found = find_lies(connection, query.source, arguments, verdicts[query.name][1])
                yield from (f"{query.name}, fill {number}: {lie}" for lie in found)
            connection.rollback()


def test_no_row_that_comes_refutes_a_verdict(
    made: DatabaseUrl, verdicts: Verdicts, pytestconfig: pytest.Config
) -> None:
    fills = 20 * FILLS if pytestconfig.getoption("--full") else FILLS
    assert [*look_for_lies(made, verdicts, fills)] == []


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


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_that_is_broken_is_found_out(
    made: DatabaseUrl, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config, rule: str
) -> None:
    if [*BROKEN].index(rule) % 19 and not pytestconfig.getoption("--full"):
        pytest.skip("some are enough for each run: --full")
    monkeypatch.setattr(*BROKEN[rule])
    assert next(look_for_lies(made, asyncio.run(judge_all(made)), 4 * FILLS), None), "nobody noticed"
