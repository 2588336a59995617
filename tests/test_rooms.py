"""The rooms of tests: what may be imported where."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support import CHECKOUT

TESTS = CHECKOUT / "tests"

OF_RESOURCES = (
    *("svc.users", "svc.accounts", "svc.health"),
    *(f"tests.support.{name}" for name in ("users", "exports", "imports", "seeds")),
)
"""The product's resources, and what the tests of them share."""


def read_imports(path: Path) -> Iterator[str]:
    """Return the full names of modules, or of what is in them, that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_imports(path: Path, *prefixes: str) -> list[str]:
    """Return those of a file's imports that are one of these modules, or inside of it."""
    return [
        name for name in read_imports(path) if any(f"{name}.".startswith(f"{each}.") for each in prefixes)
    ]


def test_no_module_of_the_tests_imports_a_file_of_tests() -> None:
    files = sorted(TESTS.rglob("*.py"))
    tests = [
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        for path in files
        if path.name.startswith("test_")
    ]
    assert len(tests) > 30
    found = {path.relative_to(CHECKOUT).as_posix(): find_imports(path, *tests) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_tests_of_the_machinery_import_no_resource() -> None:
    files = [path for room in ("postgres", "http") for path in sorted((TESTS / room).glob("*.py"))]
    assert [path for path in files if find_imports(path, *OF_RESOURCES)] == []
