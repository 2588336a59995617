"""docs/your-own-table.md keeps its word: its files, made out of the page in a copy, pass every check."""

import re
from pathlib import Path

import pytest

from bench.figures import count_lines
from tests.support import CHECKOUT
from tests.support.scratch import check_statically, copy_checkout, run

PAGE = (CHECKOUT / "docs/your-own-table.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`\n\n```(?:sql|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
(LINE,) = re.findall(r"^\+(.*)$", PAGE, re.MULTILINE)
MOST_LINES = 93
"""What FastAPI + SQLModel takes for the same contract."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which the page was followed."""
    return follow(tmp_path_factory.mktemp("notes") / "bareline")


def follow(folder: Path) -> Path:
    """Copy the checkout, and do what the page says."""
    copy_checkout(folder)
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    (folder / "tests/notes/__init__.py").touch()
    app = folder / "svc/app.py"
    last = '    "svc.health",\n'
    assert app.read_text().count(last) == 1
    app.write_text(app.read_text().replace(last, f"{last}{LINE}\n"))
    return folder


def test_it_takes_as_many_lines_as_the_page_says_and_no_more_than_sqlmodel(copy: Path) -> None:
    count = sum(count_lines(copy / name) for name in FILES if not name.startswith("tests/"))
    assert f"**{count} lines**" in PAGE
    assert count <= MOST_LINES


def test_it_touches_nothing_but_its_own_files_and_a_line() -> None:
    owned = ("svc/notes/", "queries/notes.sql", "migrations/", "tests/notes/")
    assert [name for name in FILES if not name.startswith(owned) or (CHECKOUT / name).exists()] == []


def test_the_page_is_formatted_as_everything_else(copy: Path) -> None:
    run(copy, "ruff", "check", "svc/notes", "tests/notes", "svc/app.py")
    run(copy, "ruff", "format", "--check", "svc/notes", "tests/notes", "svc/app.py")


def test_its_statements_types_and_imports_are_proven_and_its_tests_pass(copy: Path) -> None:
    check_statically(copy, "svc/notes", "svc/app.py")
    assert '"create_note"' in (copy / "queries/proven.json").read_text()
    run(copy, "pytest", "-n", "0", "tests/notes")


def test_with_every_lever_it_is_the_same_to_clients(tmp_path: Path) -> None:
    folder = follow(tmp_path / "bareline")
    for source, name in (("notes.sql", "queries/notes.sql"), ("notes.py", "svc/notes/__init__.py")):
        (folder / name).write_text((CHECKOUT / "examples/notes" / source).read_text())
    assert "fast=" in (folder / "svc/notes/__init__.py").read_text()
    run(folder, "ruff", "check", "svc/notes")
    run(folder, "ruff", "format", "--check", "svc/notes")
    check_statically(folder, "svc/notes", "svc/app.py")
    run(folder, "pytest", "-n", "0", "tests/notes")


def test_the_whole_suite_passes_with_it(copy: Path, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--full"):
        pytest.skip("takes minutes: --full")
    run(copy, "svc", "check")
    run(copy, "pytest", "--ignore", "tests/docs", "--ignore", "tests/bench")
