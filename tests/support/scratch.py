"""Copies of the checkout in which a test may do what it likes, and what is run in them."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import CHECKOUT

COPIED = ("svc", "queries", "migrations", "tests", "bench", "docs", "deploy", "pyproject.toml", "README.md")


def copy_checkout(folder: Path) -> Path:
    """Copy all that is checked and tested into a new folder, and return it."""
    ignored = shutil.ignore_patterns("__pycache__", "results")
    for name in COPIED:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def run(folder: Path, *command: str) -> None:
    """Run a module of Python in a folder. Fails with what it printed where it fails."""
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=1800
    )
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout}{ran.stderr}"


def check_statically(folder: Path, *paths: str) -> None:
    """Prove statements, types and imports of a copy. What mypy knows of the checkout's files holds for it, too."""
    run(folder, "svc", "check")
    run(folder, "mypy", "--cache-dir", str(CHECKOUT / ".mypy_cache"), *paths)
    run(folder, "importlinter.cli", "lint")
