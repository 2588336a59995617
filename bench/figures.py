"""Figures that are counted: lines, packages, megabytes, round trips; and where it all ran."""

import ast
import io
import platform
import re
import sys
import time
import tokenize
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.database import Cluster, Table
from bench.postgres import postgres_version
from bench.processes import CHECKOUT, run
from bench.records import Environment, Trips
from bench.roster import CORE, SERVICE, Peer, Server, start
from bench.trips import Proxy
from bench.wire import Connection
from bench.work import Cursor, Requests, WorkError, collect_cursors

COMMENTS = {
    ".sql": re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL),
    ".js": re.compile(r"(?m)^\s*//[^\n]*|/\*.*?\*/", re.DOTALL),
    ".go": re.compile(r"(?m)^\s*//[^\n]*|/\*.*?\*/", re.DOTALL),
}


def count_lines(path: Path) -> int:
    """Return how many lines of code a file has: no blank ones, no comments, no docstrings."""
    text = path.read_text()
    if path.suffix == ".py":
        return len(python_lines(text) - docstring_lines(text))
    return sum(1 for line in COMMENTS[path.suffix].sub("", text).splitlines() if line.strip())


def python_lines(text: str) -> set[int]:
    """Return the numbers of the lines that hold code."""
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    empty |= {tokenize.ENDMARKER, tokenize.ENCODING}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        number
        for token in tokens
        if token.type not in empty
        for number in range(token.start[0], token.end[0] + 1)
    }


def docstring_lines(text: str) -> set[int]:
    """Return the numbers of the lines that are bare strings: docstrings, of attributes too."""
    return {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }  # fmt: skip


def lines_of(patterns: Iterable[str]) -> int:
    """Return the lines of code of all files that match."""
    return sum(count_lines(path) for pattern in patterns for path in sorted(CHECKOUT.glob(pattern)))


def closure(names: Iterable[str]) -> set[str]:
    """Return all installed distributions that these need, extras as in `sqlalchemy[asyncio]` included."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        found.add(package.metadata["Name"].lower().replace("_", "-"))
        for needed in map(Requirement, package.requires or []):
            extras = ["", *requirement.extras]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return found


def megabytes(names: Iterable[str]) -> float:
    """Return the size of the files of installed distributions, without compiled caches."""
    total = 0
    for name in names:
        package = distribution(name)
        for file in package.files or []:
            path = Path(str(package.locate_file(file)))
            if path.suffix != ".pyc" and path.is_file():
                total += path.stat().st_size
    return total / 1e6


class Counts(NamedTuple):
    """What is counted of a peer's files: its own lines of code, and all packages that it needs.

    `lines_core` are those of the service for this contract alone.
    """

    lines: int
    lines_core: int | None
    packages: int
    megabytes: float


def count_files(peer: Peer, folder: Path) -> Counts:
    """Count a peer that is here; `folder` is that of the run, where programs are built."""
    core = lines_of(CORE) if peer.name.startswith(SERVICE) else None
    return Counts(lines_of(peer.sources), core, *packages_of(peer, folder))


def packages_of(peer: Peer, folder: Path) -> tuple[int, float]:
    """Return how many packages a peer needs, and their megabytes; (1, size) for a single program."""
    if named := named_packages(peer):
        names = closure(named)
        return len(names), megabytes(names)
    program = folder / peer.name
    if program.is_file():
        return 1, program.stat().st_size / 1e6
    modules = peer.folder / "node_modules"
    count = sum(1 for path in modules.glob("**/package.json") if is_package(path, modules))
    return count, sum(path.stat().st_size for path in modules.rglob("*") if path.is_file()) / 1e6


def named_packages(peer: Peer) -> Sequence[str]:
    """Return the distributions that a peer names itself, none for one that is not in Python."""
    if not peer.name.startswith(SERVICE):
        return peer.packages
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return [str(name) for name in project["dependencies"]]


def is_package(path: Path, modules: Path) -> bool:
    """Return whether a package.json is that of a package, not one that lies deeper within it."""
    inside = path.relative_to(modules).parts[:-1]
    return len(inside) == (2 if inside and inside[0].startswith("@") else 1)


def count_trips(peer: Peer, table: Table, folder: Path, count: int, idle: float) -> Trips:
    """Start a peer behind a proxy and count its SQL round trips, over `count` requests of each kind.

    Those without a request are watched for `idle` seconds, and are None where they are none.
    """
    sockets = folder / "proxy"
    sockets.mkdir(exist_ok=True)
    with (
        Proxy(sockets, table.folder()) as proxy,
        start(peer, table, folder, url=proxy.url(table.url)) as server,
    ):
        requests = Requests(table.token, table.rows, 0).fresh()
        requests.cursors = try_collect_cursors(server, requests, 20)
        return Trips(
            point=count_some(proxy, server, requests, "point", count),
            page=count_some(proxy, server, requests, "page", count),
            lookup=count_some(proxy, server, requests, "lookup", count),
            patch=count_some(proxy, server, requests, "patch", count),
            create=count_some(proxy, server, requests, "create", count),
            point_64=count_many(proxy, server, requests, count),
            idle=count_idle(proxy, idle) if idle else None,
        )


def try_collect_cursors(server: Server, requests: Requests, count: int) -> list[Cursor]:
    """Return a peer's cursors, none where its pages fail: the page's own runs will say why."""
    try:
        return collect_cursors(server.port, requests, count)
    except (WorkError, OSError):
        return []


def count_some(proxy: Proxy, server: Server, requests: Requests, work: str, count: int) -> float | None:
    """Return round trips a request, one at a time, after some to warm it; None where one fails."""
    try:
        with Connection(server.port) as connection:
            ask_some(connection, requests, work, min(count, 50))
            wait_for_quiet(proxy)
            before = proxy.count
            ask_some(connection, requests, work, count)
            wait_for_quiet(proxy)  # a session may end after its answer
            return (proxy.count - before) / count
    except (WorkError, OSError, IndexError):
        return None


def count_idle(proxy: Proxy, seconds: float) -> float:
    """Return round trips a second while nobody asks."""
    time.sleep(0.5)  # what the last request leaves to be done
    before = proxy.count
    time.sleep(seconds)
    return (proxy.count - before) / seconds


def wait_for_quiet(proxy: Proxy, seconds: float = 5) -> None:
    """Wait until nothing passes that was not asked for, such as what a service does at its start."""
    deadline, before = time.monotonic() + seconds, -1
    while time.monotonic() < deadline and before != (before := proxy.count):
        time.sleep(0.05)


def ask_some(connection: Connection, requests: Requests, work: str, count: int) -> None:
    """Ask `count` times and check the answers. Raises WorkError."""
    for _ in range(count):
        request = requests.make(work)
        if wrong := request.check(connection.ask(request.raw)):
            raise WorkError(wrong)


def count_many(proxy: Proxy, server: Server, requests: Requests, count: int) -> float | None:
    """Return round trips a point read with 64 connections at once, after they were warmed."""

    def ask(each: int) -> None:
        with Connection(server.port) as connection:
            ask_some(connection, requests, "point", each)

    try:
        with ThreadPoolExecutor(64) as threads:
            list(threads.map(ask, [2] * 64))
            before, each = proxy.count, max(1, count // 20)
            list(threads.map(ask, [each] * 64))
            return (proxy.count - before) / (each * 64)
    except (WorkError, OSError):
        return None


def start_times(peer: Peer, table: Table, folder: Path, count: int) -> list[float]:
    """Return the seconds from a start to the first user read, of so many starts. Raises StartError."""
    times = []
    for _ in range(count):
        with start(peer, table, folder) as server:
            times.append(server.started_in)
    return times


def idle_cpu(cluster: Cluster, servers: Sequence[Server]) -> dict[str, float]:
    """Return the share of one core that each takes while nobody asks anything, by name."""
    time.sleep(1)  # what a start leaves to be done
    sources = {server.peer.name: server.cpu for server in servers} | {"postgres": cluster.cpu}
    before = {name: source() for name, source in sources.items()}
    time.sleep(1)
    return {name: source() - before[name] for name, source in sources.items()}


def read_environment(arguments: Sequence[str], versions_of: Iterable[str]) -> Environment:
    """Return where and with what it runs: the versions are those of all that these distributions need."""
    return Environment(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=" ".join(["python -m bench", *arguments]),
        cpu=cpu_model(),
        cores=psutil.cpu_count(),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        kernel=platform.release(),
        python=sys.version.split()[0],
        postgres=postgres_version(),
        wrk=first_line("wrk", "-v"),
        node=first_line("node", "--version"),
        go=first_line("go", "version"),
        commit=first_line("git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"),
        packages={name: distribution(name).version for name in sorted(closure(versions_of))},
    )


def cpu_model() -> str:
    """Return the name that the kernel has for the CPU."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"model name\s*: (.+)", text)
    return named[1] if named else platform.processor() or platform.machine()


def first_line(*command: str) -> str:
    """Return the first line that a program prints, "" where it is not here."""
    try:
        return run(command, 10)[1].partition("\n")[0].strip()
    except OSError:
        return ""
