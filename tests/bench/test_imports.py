"""bench/ imports nothing of the service; what it repeats of the service agrees with it."""

import ast
from collections.abc import Iterator
from pathlib import Path

from bench.ceilings import PARAMETER, read_queries
from bench.roster import CORE
from svc.postgres.statements import load
from tests.support import CHECKOUT

MEASURING_INSIDE = {"bound_query.py", "memory.py", "rungs.py"}
"""The scripts that measure the service's insides, `rungs.py` for `ladder.py`."""


def find_imports(path: Path) -> Iterator[str]:
    """The names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_only_scripts_that_measure_the_inside_import_the_service() -> None:
    paths = sorted((CHECKOUT / "bench").rglob("*.py"))
    importing = {
        path.name for path in paths if any(name.partition(".")[0] == "svc" for name in find_imports(path))
    }
    assert len(paths) > 30
    assert importing <= MEASURING_INSIDE


def test_pgbench_is_given_the_statements_that_the_service_sends() -> None:
    for path in (CHECKOUT / "queries").glob("*.sql"):
        for name, query in load(path.name).items():
            numbers = {parameter: f"${number}" for number, parameter in enumerate(query.parameters, 1)}
            assert PARAMETER.sub(lambda found: numbers[found[1]], read_queries()[name]) == query.sql  # noqa: B023


def test_the_files_counted_as_the_contract_s_own_are_there() -> None:
    assert [name for name in CORE if not (CHECKOUT / name).is_file()] == []
