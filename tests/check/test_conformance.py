"""The check's verdicts on queries over one rich schema: as written down, and never refuted by rows that come."""

import asyncio
import random
import zlib
from collections.abc import Callable, Iterator

import psycopg
import pytest

from svc.database_url import DatabaseUrl
from tests.support import NUMBERS, TEMPLATE, at
from tests.support.broken_rules import BROKEN
from tests.support.conformance import fill, find_lies, make_arguments, prepare
from tests.support.proofs import having
from tests.support.verdicts import QUERIES, SCHEMA, Verdicts, judge_all

FILLS = 12


@pytest.fixture(scope="module")
def made(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[DatabaseUrl]:
    """A database with the rich schema."""
    with having(server_url, admin, SCHEMA) as url:
        yield url


@pytest.fixture(scope="module")
def verdicts(made: DatabaseUrl) -> Verdicts:
    """What the check says of each query: in words, and for the judge."""
    return asyncio.run(judge_all(made, QUERIES))


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
    name, schema = f"{TEMPLATE}_{next(NUMBERS)}", SCHEMA
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


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_that_is_broken_is_found_out(
    made: DatabaseUrl, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config, rule: str
) -> None:
    if [*BROKEN].index(rule) % 19 and not pytestconfig.getoption("--full"):
        pytest.skip("some are enough for each run: --full")
    monkeypatch.setattr(*BROKEN[rule])
    assert next(look_for_lies(made, asyncio.run(judge_all(made, QUERIES)), 4 * FILLS), None), "nobody noticed"
