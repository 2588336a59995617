"""What the check says of queries over the rich schema of tests/check/conformance: in words, and for the judge."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from svc.check.prove import Proof, Schema, read_schema
from svc.check.rows import is_present, is_single
from svc.check.scope import Scope
from svc.check.scratch import connect
from svc.database_url import DatabaseUrl
from svc.postgres.queries import Signature
from svc.postgres.statements import Query, read_queries
from tests.support import CHECKOUT, make_config
from tests.support.conformance import Verdict

FOLDER = CHECKOUT / "tests/check/conformance"
QUERIES = [
    query
    for path in sorted(FOLDER.glob("*.sql"))
    if path.name != "schema.sql"
    for query in read_queries(path.read_text(encoding="utf-8"), path).values()
]

SCHEMA = (FOLDER / "schema.sql").read_text(encoding="utf-8")

Verdicts = dict[str, tuple[str, Verdict]]

TYPES: dict[str, Any] = {"id": int, "n": int, "name": str, "ids": list[int], "names": list[str]}


def declare(query: Query) -> Signature:
    """The types of a query's parameters, by their names."""
    types = {name: TYPES[name.removeprefix("maybe_")] for name in query.parameters}
    optional = {name: type_ | None if name.startswith("maybe_") else type_ for name, type_ in types.items()}
    return Signature(query.name, optional, None, many=False, optional=False)


async def judge_all(url: DatabaseUrl, queries: Sequence[Query]) -> Verdicts:
    """The check's verdict on each query that prepares."""
    connection = await connect(make_config(url))
    try:
        schema, found = await read_schema(connection), Verdicts()
        for query in queries:
            try:
                statement = await connection.prepare(query.sql)
            except asyncpg.PostgresError:
                continue
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
