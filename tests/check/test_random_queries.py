"""Queries that nobody wrote: whatever joins, groups and sub-queries they are put together of, no verdict is refuted."""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from svc.database_url import DatabaseUrl
from svc.postgres.statements import Query, read_queries
from tests.support.conformance import Verdict, fill, find_lies, make_arguments, prepare
from tests.support.grammar import Grammar
from tests.support.proofs import having
from tests.support.verdicts import SCHEMA, judge_all

MADE, MOST = 300, 10_000
FILLS = 4
AT_A_TIME = 500


@pytest.fixture(scope="module")
def made(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[DatabaseUrl]:
    with having(server_url, admin, SCHEMA) as url:
        yield url


def make_queries(numbers: range) -> list[Query]:
    """The queries of these numbers, the same ones in every run."""
    texts = [f"-- name: r{n} :many\n{Grammar(random.Random(n)).statement()};" for n in numbers]
    return [*read_queries("\n\n".join(texts), Path("made.sql")).values()]


def look_for_lies(url: DatabaseUrl, judged: list[tuple[Query, Verdict]], seed: int) -> Iterator[str]:
    """What rows that come say against the verdicts."""
    with psycopg.connect(url) as connection:
        for number in range(FILLS):
            prepare(connection)
            connection.execute("set statement_timeout = '2s'")
            dice = random.Random(seed + number)
            fill(connection, dice)
            for query, verdict in judged:
                arguments: dict[str, Any] = make_arguments(dice, query.parameters)
                for lie in find_lies(connection, query.source, arguments, verdict):
                    yield f"{query.name}, fill {seed + number}: {lie}\n{query.source}\n{arguments}"
            connection.rollback()


def test_no_verdict_on_a_random_query_is_refuted(made: DatabaseUrl, pytestconfig: pytest.Config) -> None:
    number = MOST if pytestconfig.getoption("--full") else MADE
    prepared = 0
    for start in range(0, number, AT_A_TIME):
        queries = make_queries(range(start, min(start + AT_A_TIME, number)))
        verdicts = asyncio.run(judge_all(made, queries))
        judged = [(query, verdicts[query.name][1]) for query in queries if query.name in verdicts]
        prepared += len(judged)
        lies = [*look_for_lies(made, judged, start)]
        assert lies == [], "\n\n".join(lies[:3])
    assert prepared > 0.9 * number
