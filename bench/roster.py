"""Who takes part: how each peer is started, what it needs, which files are its own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from bench.database import Table
from bench.processes import CHECKOUT, clean_environment, end, run, spawn
from bench.wire import Connection, WireError
from bench.work import Requests

PEERS = Path(__file__).parent / "peers"

POOL_SIZE = 20
START_SECONDS = 60
CHEAP_HASH, REAL_HASH = (8, 1), (19_456, 2)
"""argon2id's KiB and passes: as cheap as it can be, and OWASP's floor."""

FIRST_PORT = 8300


class Missing(Exception):
    """A peer cannot be started on this machine; the message says what is missing."""


class StartError(Exception):
    """A peer was started and does not answer; the message ends with what it printed."""


@dataclass(frozen=True)
class Peer:
    """A service under the contract. `command` may hold {port}, {folder} (of the run) and {peers}.

    `sources` are the files counted as its lines, `packages` the distributions it names itself, `modules`
    and `programs` what must be there, `prepare` a program that is run once before the first start, `works`
    all that it takes part in, where that is not everything.
    """

    name: str
    title: str
    command: tuple[str, ...]
    sources: tuple[str, ...]
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    folder: Path = CHECKOUT
    works: tuple[str, ...] = ()
    is_ceiling: bool = False

    def fill(self, text: str, **values: object) -> str:
        """Return `text` with its places filled in."""
        return text.format(peers=PEERS, python=sys.executable, **values)


PYTHON = "{python}"
UVICORN = (
    PYTHON, "-m", "uvicorn", "--port", "{port}", "--loop", "uvloop", "--http", "httptools",
    "--log-level", "warning", "--no-access-log", "--no-proxy-headers", "--no-server-header",
)  # fmt: skip
SERVER = ("uvicorn", "uvloop", "httptools")
CORE = (
    "svc/users/handlers.py",
    "svc/users/lists.py",
    "svc/users/structs.py",
    "svc/users/rows.py",
    "queries/users.sql",
    "queries/user_lists.sql",
)
"""The service's own files for this contract; the rest of it serves any table."""


LEVERED = ("point", "patch")
"""The works on which a lever makes a difference."""


def service(name: str, title: str, *flags: str) -> Peer:
    """Return the service itself, or the service with some of its levers off."""
    command = (PYTHON, "-m", "svc", "serve", "--port", "{port}", *flags)
    works = LEVERED if flags else ()
    return Peer(name, title, command, ("svc/**/*.py", "queries/*.sql"), ("bareline",), works=works)


def python_peer(name: str, title: str, *packages: str) -> Peer:
    """Return an ASGI peer in one file, run by uvicorn with the flags that the service has."""
    modules = tuple(package.partition("[")[0].replace("-", "_") for package in packages)
    modules = tuple(MODULES.get(module, module) for module in modules)
    return Peer(
        name,
        title,
        (*UVICORN, f"bench.peers.{name}:app"),
        (f"bench/peers/{name}.py",),
        (*packages, *SERVER, "argon2-cffi"),
        modules,
        files=(f"{name}.py",),
    )


MODULES = {"psycopg2_binary": "psycopg2", "email_validator": "email_validator"}
"""Distributions whose module has another name."""

SQLALCHEMY = ("sqlalchemy[asyncio]", "asyncpg")
PYDANTIC = "pydantic[email]"

GO_BUILD = ("env", "GO111MODULE=off", "GOPATH=/usr/share/gocode", "go", "build")
"""With the packages that Debian has, and no module proxy."""

ROSTER = [
    service("bareline", "Bareline"),
    service("bareline_no_short_cut", "Bareline, no short cut", "--no-short-cut"),
    service("bareline_no_batching", "Bareline, no batching", "--no-batching"),
    service("bareline_plain", "Bareline, neither", "--no-short-cut", "--no-batching"),
    python_peer("starlette_asyncpg", "Starlette + asyncpg", "starlette", "asyncpg", PYDANTIC),
    python_peer("fastapi_psycopg3", "FastAPI + psycopg 3", "fastapi", "psycopg[binary,pool]", PYDANTIC),
    python_peer("fastapi_psycopg2", "FastAPI + psycopg2", "fastapi", "psycopg2-binary", PYDANTIC),
    python_peer("fastapi_text", "FastAPI + text() in a session", "fastapi", *SQLALCHEMY, PYDANTIC),
    python_peer("fastapi_sqlalchemy", "FastAPI + SQLAlchemy", "fastapi", *SQLALCHEMY, PYDANTIC),
    python_peer("fastapi_sqlmodel", "FastAPI + SQLModel", "fastapi", "sqlmodel", *SQLALCHEMY, PYDANTIC),
    python_peer("litestar_sqlalchemy", "Litestar + SQLAlchemy", "litestar", *SQLALCHEMY, "email-validator"),
    python_peer("django_orm", "Django + its ORM", "django", "psycopg[binary,pool]"),
    Peer(
        "fastify_postgres",
        "Fastify + postgres.js",
        ("node", "server.js"),
        ("bench/peers/fastify_postgres/*.js",),
        programs=("node",),
        files=("fastify_postgres/server.js", "fastify_postgres/node_modules"),
        folder=PEERS / "fastify_postgres",
    ),
    Peer(
        "go_pgx",
        "Go net/http + pgx",
        ("{folder}/go_pgx",),
        ("bench/peers/go_pgx.go",),
        programs=("go",),
        files=("go_pgx.go",),
        prepare=(*GO_BUILD, "-o", "{folder}/go_pgx", "go_pgx.go"),
        folder=PEERS,
    ),
]  # fmt: skip

CONSTANT = Peer(
    "constant",
    "uvicorn, constant bytes",
    (*UVICORN, "bench.peers.constant:app"),
    ("bench/peers/constant.py",),
    is_ceiling=True,
)

SERVICE, BASELINE = "bareline", "fastapi_sqlmodel"
"""The two that all others are compared with."""


def require(peer: Peer, folder: Path) -> None:
    """Check that all is there that the peer needs, and build it. Raises Missing."""
    for name in peer.programs:
        if shutil.which(name) is None:
            raise Missing(f"there is no {name} here")
    for module in peer.modules:
        if find_spec(module) is None:
            raise Missing(f"the package {module} is not installed")
    for name in peer.files:
        if not (PEERS / name).exists():
            hint = ": run `npm ci` in its folder" if name.endswith("node_modules") else ""
            raise Missing(f"there is no bench/peers/{name}{hint}")
    if peer.prepare:
        build(peer, folder)


def build(peer: Peer, folder: Path) -> None:
    """Run what comes before the first start. Raises Missing with what it printed."""
    command = [peer.fill(part, folder=folder) for part in peer.prepare]
    try:
        code, said = run(command, 300, peer.folder)
    except subprocess.TimeoutExpired:
        raise Missing("the build took more than five minutes") from None
    if code:
        raise Missing(f"the build failed: {said.strip()[-300:]}")


class Server:
    """A peer that runs. `started_in` is the time from its start to the first user read, in seconds."""

    def __init__(self, peer: Peer, process: subprocess.Popen[bytes], port: int, started_in: float) -> None:
        self.peer, self.port, self.started_in = peer, port, started_in
        self.url = f"http://127.0.0.1:{port}"
        self._process = psutil.Process(process.pid)

    def cpu(self) -> float:
        """Return the seconds of CPU that all its processes have used."""
        used: float = sum(self._process.cpu_times())
        return used + sum(sum(child.cpu_times()[:2]) for child in self._process.children(recursive=True))

    def wait_until_idle(self, seconds: float = 10) -> None:
        """Wait until it takes no CPU, so that what former clients asked for does not slow the next run.

        On a busy machine it may get none and want some: then one of its processes can be run.
        """
        deadline, busy = time.monotonic() + seconds, True
        while busy and time.monotonic() < deadline:
            before = self.cpu()
            time.sleep(0.2)
            busy = self.cpu() - before > 0.04 or self._is_runnable()

    def _is_runnable(self) -> bool:
        processes = [self._process, *self._process.children(recursive=True)]
        return any(process.status() == psutil.STATUS_RUNNING for process in processes)

    def memory(self) -> int:
        """Return the resident bytes of all its processes."""
        processes = [self._process, *self._process.children(recursive=True)]
        return sum(process.memory_info().rss for process in processes)


@contextmanager
def start(
    peer: Peer,
    table: Table,
    folder: Path,
    cost: tuple[int, int] = CHEAP_HASH,
    url: str | None = None,
    **more: str,
) -> Generator[Server]:
    """Run a peer while the block lasts, from its first answered read on. Raises StartError.

    `cost` is that of a password's hash, `url` another way to the same database.
    """
    port = free_port()
    environment = make_environment(table, port, cost) | more
    if url:
        environment["DATABASE_URL"] = url
    command = [peer.fill(part, port=port, folder=folder) for part in peer.command]
    with tempfile.TemporaryFile(dir=folder) as output:
        started = time.perf_counter()
        process = spawn(command, environment, output, folder=peer.folder)
        try:
            if not answers(process, port, Requests(table.token, 1, 0).point().raw):
                output.seek(0)
                said = output.read().decode(errors="replace").strip()
                raise StartError(f"no read was answered: {said[-500:]}")
            yield Server(peer, process, port, time.perf_counter() - started)
        finally:
            end(process)


def answers(process: subprocess.Popen[bytes], port: int, raw: bytes) -> bool:
    """Wait for the first 200; return False if the process ends instead, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with Connection(port) as connection:
                if connection.ask(raw).status == 200:
                    return True
        except (OSError, WireError):
            pass
        time.sleep(0.01)
    return False


def make_environment(table: Table, port: int, cost: tuple[int, int]) -> dict[str, str]:
    """Return the whole configuration of a peer, under the peers' names and under the service's."""
    memory, passes = map(str, cost)
    return clean_environment() | {
        "DATABASE_URL": table.url,
        "PORT": str(port),
        "POOL_SIZE": str(POOL_SIZE),
        "KEY_HASH": table.key_hash,
        "HASH_MEMORY": memory,
        "HASH_PASSES": passes,
        "SVC_POOL_SIZE": str(POOL_SIZE),
        "SVC_HASH_MEMORY": memory,
        "SVC_HASH_PASSES": passes,
        "SVC_HASH_QUEUE": "1000",  # the peers refuse nobody,
        "SVC_HASH_THREADS": str(os.cpu_count() or 1),  # and hash on all cores
    }


def free_port() -> int:
    """Return the first port from FIRST_PORT up that nobody listens on."""
    for port in range(FIRST_PORT, 65536):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StartError("no port is free")
