"""What the Python source itself promises: SQL in .sql files alone, one way to the driver, no loose ends."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from svc.check.findings import Finding, find, name_file
from svc.config import CHECKOUT, find_folder
from svc.sql import TOKEN, Query, load

DRIVER = {
    "db.py": "lends connections and runs queries of the contract",
    "errors.py": "knows the driver's exceptions",
    "__main__.py": "tells the driver's exceptions to a person",
    "migrate.py": "hands the migrations to yoyo, which runs them through psycopg",
    "check/prove.py": "prepares queries",
    "check/laboratory.py": "fills scratch tables and explains queries",
    "check/rollout.py": "prepares another release's queries",
}
"""The only files that may import a driver, and why."""

SENDING = frozenset(
    """execute executemany fetch fetchval fetchrow fetchmany prepare cursor copy_from_query copy_from_table
    copy_to_table copy_records_to_table""".split()
)
"""What a driver's connection is sent text with."""

SQL = re.compile(
    r"\s*(select\b|insert\s+into\b|update\s+\S+\s+set\b|delete\s+from\b|with\s+\w+\s+as\b|(create|alter|drop)\s+\w+\s)",
    re.IGNORECASE,
)
STAR = re.compile(r"(\bselect\s+(distinct\s+)?|\breturning\s+|,\s*|\.)\*", re.IGNORECASE)

PACKAGE = Path(__file__).parent.parent


def check_source(queries: Sequence[Query]) -> list[Finding]:
    """Everything that the source shows, without a database."""
    found: list[Finding] = []
    used: set[str] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        found += check_module(path, tree)
    found += [find(q, "unused", "a call of the query", "none in svc/") for q in queries if q.name not in used]
    found += [finding for query in queries for finding in find_stars(query)]
    return found + find_unbound(queries)


def check_module(path: Path, tree: ast.Module) -> Iterator[Finding]:
    """A driver imported, text sent, a query made or SQL written where that must not be."""
    name = path.relative_to(PACKAGE).as_posix()
    trusted = name in DRIVER
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and not trusted:
            modules = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            if {module.partition(".")[0] for module in modules} & {"asyncpg", "psycopg", "psycopg2", "yoyo"}:
                yield report(path, node, f"no driver but in {', '.join(DRIVER)}", ast.unparse(node))
        elif isinstance(node, ast.Call) and (problem := check_call(node, name)):
            yield report(path, node, problem, ast.unparse(node)[:80])
        elif not name.startswith("check/") and isinstance(node, ast.Constant) and SQL.match(str(node.value)):
            yield report(path, node, "SQL in queries/*.sql alone", repr(node.value)[:80])


def check_call(node: ast.Call, name: str) -> str | None:
    """What is wrong with a call: text on its way to the driver, or a Query that no .sql file has."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called == "Query" and name != "sql.py":
        return "queries out of .sql files alone: svc/sql.py makes them"
    if called not in SENDING or name.startswith("check/") or not isinstance(node.func, ast.Attribute):
        return None
    if name == "db.py" and node.args and ast.unparse(node.args[0]) == "query.sql":
        return None
    return "nothing is sent but the text of a Query, in svc/db.py"


def report(path: Path, node: ast.AST, expected: str, found: str) -> Finding:
    """A finding about a place in Python."""
    return Finding(
        kind="text",
        file=name_file(path),
        line=getattr(node, "lineno", 1),
        column=getattr(node, "col_offset", 0) + 1,
        query="-",
        expected=expected,
        found=found,
    )


def find_stars(query: Query) -> Iterator[Finding]:
    """`select *`: what comes would change with the table."""
    plain = TOKEN.sub(lambda token: token[0] if token["name"] else " " * len(token[0]), query.source)
    for star in STAR.finditer(plain):
        yield find(query, "column", "columns by name", "*", star.end() - 1)


def find_unbound(queries: Sequence[Query]) -> list[Finding]:
    """Queries of .sql files that no class declares: their whole file is not bound."""
    bound = {query.path for query in queries}
    return [
        find(query, "signature", f"a class with file={path.name!r}", "none")
        for path in sorted(find_folder("queries").glob("*.sql"))
        if path not in bound
        for query in load(path.name).values()
    ]


def is_checkout() -> bool:
    """Whether the package is used out of its checkout, where what was proven can be written down."""
    return (CHECKOUT / "pyproject.toml").exists()
