"""What is optional can be deleted: its line in svc/app.py, its files; the rest passes every check."""

from pathlib import Path

import pytest

from tests.support.scratch import check_statically, copy_checkout, run

PARTS = {
    "svc.users.exporter": ("svc/users/exporter.py", "queries/user_export.sql", "tests/users/test_export*.py"),
    "svc.users.importer": (
        "svc/users/importer.py",
        "queries/user_import.sql",
        "tests/users/test_*import*.py",
    ),
    "svc.users.seed": ("svc/users/seed.py", "queries/seed.sql", "tests/users/test_seed*.py"),
}
"""The line of each, its files, its tests."""


def delete(folder: Path, name: str) -> None:
    """Take a part out of a copy of the checkout."""
    app = folder / "svc/app.py"
    line = f'    "{name}",\n'
    assert app.read_text().count(line) == 1
    app.write_text(app.read_text().replace(line, ""))
    for pattern in PARTS[name]:
        paths = [*folder.glob(pattern)]
        assert paths, pattern
        for path in paths:
            path.unlink()


@pytest.mark.parametrize("name", PARTS)
def test_a_part_can_be_deleted(tmp_path: Path, pytestconfig: pytest.Config, name: str) -> None:
    if not pytestconfig.getoption("--full"):
        pytest.skip("takes minutes: --full")
    folder = copy_checkout(tmp_path / "bareline")
    delete(folder, name)
    check_statically(folder, "svc")
    run(folder, "pytest", "--ignore", "tests/docs", "--ignore", "tests/bench")
