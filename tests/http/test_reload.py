"""`svc serve --reload`: a change of the source is served without a start by hand."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from svc.config import Config
from tests.support import make_client
from tests.support.scratch import copy_checkout
from tests.support.waiting import DEADLINE, wait_for


@contextmanager
def served(folder: Path, config: Config) -> Iterator[str]:
    """Run the service of a copy with --reload, and give its address."""
    command = [sys.executable, "-m", "svc", "serve", "--reload", "--port", "0"]
    environment = {**os.environ, "DATABASE_URL": str(config.database_url)}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout
            found = re.fullmatch(r"Listening on (http://\S+)\n", process.stdout.readline())
            assert found
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


def wait_for_answer(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; a service that is just going down refuses."""

    def holds() -> bool:
        with suppress(httpx.TransportError):
            return condition()
        return False

    wait_for(holds)


def replace(path: Path, old: str, new: str) -> None:
    """Change a text that is there."""
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_change_of_python_or_sql_is_served(tmp_path: Path, config: Config) -> None:
    folder = copy_checkout(tmp_path / "bareline")
    with served(folder, config) as url, make_client(url) as client:
        wait_for_answer(lambda: client.get("/health/ready").status_code == 200)
        health = folder / "svc/health/__init__.py"
        replace(health, 'Literal["live", "ready"]', 'Literal["live", "ready", "well"]')
        replace(health, 'Status("live")', 'Status("well")')
        wait_for_answer(lambda: client.get("/health/live").json() == {"status": "well"})
        replace(folder / "queries/health.sql", "select not pg_is_in_recovery()", "select pg_is_in_recovery()")
        wait_for_answer(lambda: client.get("/health/ready").status_code == 503)
