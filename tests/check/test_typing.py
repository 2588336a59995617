"""Type checkers see into every query: what they find of ten mistakes, and that nothing is kept from them."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from msgspec import Raw

from svc.http.resource import collect_queries
from svc.postgres.mapping import is_struct
from svc.postgres.queries import Signature, read_signature
from tests.support import CHECKOUT, RESOURCES

QUERIES = collect_queries(RESOURCES, offline=True)

MISTAKES = CHECKOUT / "tests/check/typing/mistakes.py"


def find_marked() -> list[int]:
    """The lines that are marked as mistakes."""
    lines = MISTAKES.read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if line.endswith("  # mistake")]


def run(*arguments: str) -> str:
    """What a checker prints that finds something."""
    ran = subprocess.run([sys.executable, "-m", *arguments], cwd=CHECKOUT, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return ran.stdout


def test_there_are_ten_mistakes() -> None:
    assert len(find_marked()) == 10


def test_mypy_finds_each_mistake_and_nothing_else(tmp_path: Path) -> None:
    out = run("mypy", "--strict", "--follow-imports=silent", f"--cache-dir={tmp_path}", str(MISTAKES))
    found = re.findall(r"^tests/check/typing/mistakes\.py:(\d+): error: ", out, re.MULTILINE)
    assert sorted(map(int, set(found))) == find_marked(), out


def test_pyright_finds_each_mistake_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "pyrightconfig.json"
    include = [os.path.relpath(MISTAKES, tmp_path)]
    settings = {"include": include, "typeCheckingMode": "strict", "extraPaths": [str(CHECKOUT)]}
    config.write_text(json.dumps(settings))
    out = run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(config))
    found: list[dict[str, Any]] = json.loads(out)["generalDiagnostics"]
    assert sorted({each["range"]["start"]["line"] + 1 for each in found}) == find_marked(), out


def read_signatures() -> dict[str, Signature]:
    """What is declared of each query."""
    methods = {name: method for queries in QUERIES for name, method in vars(queries).items()}
    return {
        name: read_signature(name, method)
        for name, method in methods.items()
        if callable(method) and not name.startswith("_")
    }


def find_loose(type_: Any, seen: set[Any]) -> set[Any]:
    """The parts of a type, and of the structs in it, that any value fits."""
    if type_ in seen:
        return set()
    seen.add(type_)
    loose = {type_} & {Any, object, list, dict, tuple, set}
    parts = get_type_hints(type_, include_extras=True).values() if is_struct(type_) else get_args(type_)
    return loose.union(*(find_loose(part, seen) for part in parts if not isinstance(part, str | int)))


def test_no_query_takes_or_gives_what_may_be_anything() -> None:
    assert find_loose(list[Any] | None, set()) == {Any}, "this test would not see it"
    for name, signature in read_signatures().items():
        for type_ in (signature.row, *signature.parameters.values()):
            assert find_loose(type_, {Raw}) == set(), f"{name}: {type_}"


def test_no_checker_is_silenced_beside_a_query() -> None:
    names = read_signatures().keys()
    for path in sorted((CHECKOUT / "svc").rglob("*.py")):
        text = path.read_text()
        assert not re.search(r"^# *(mypy|pyright):", text, re.MULTILINE), (
            f"{path.name} is silenced as a whole"
        )
        lines = text.split("\n")
        for node in ast.walk(ast.parse(text)):
            is_call = isinstance(node, ast.Attribute) and node.attr in names
            is_signature = isinstance(node, ast.AsyncFunctionDef) and node.name in names
            if is_call or is_signature:
                beside = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                assert not re.search(r"type: *ignore|pyright: *ignore|cast\(", beside), (
                    f"{path.name}:{beside}"
                )
