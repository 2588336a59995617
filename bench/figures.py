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
from typing import Any

import psutil

from bench.database import Cluster, Table
from bench.postgres import postgres_version
from bench.processes import CHECKOUT, run
from bench.roster import CORE, SERVICE, Peer, Server, start
from bench.trips import Proxy
from bench.wire import Connection
from bench.work import Requests, WorkError, harvest

COMMENTS = {
    ".sql": re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL),
    ".js": re.compile(r"(?m)^\s*//[^\n]*|/\*.*?\*/", re.DOTALL),
    ".go": re.compile(r"(?m)^\s*//[^\n]*|/\*.*?\*/", re.DOTALL),
}


def count_lines(path: Path) -> int:
    """Lines of code: no blank ones, no comments, no docstrings."""
    text = path.read_text()
    if path.suffix == ".py":
        return len(python_lines(text) - docstring_lines(text))
    return sum(1 for line in COMMENTS[path.suffix].sub("", text).splitlines() if line.strip())


def python_lines(text: str) -> set[int]:
    """The numbers of the lines that hold code."""
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
    """The numbers of the lines that are bare strings: docstrings, of attributes too."""
    return {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }  # fmt: skip


def lines_of(patterns: Iterable[str]) -> int:
    """The lines of all files that match."""
    return sum(count_lines(path) for pattern in patterns for path in sorted(CHECKOUT.glob(pattern)))


def closure(names: Iterable[str]) -> set[str]:
    """All distributions that these need, extras as in `sqlalchemy[asyncio]`, as far as they are installed."""
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
    """The size of the files of installed distributions, without compiled caches."""
    total = 0
    for name in names:
        package = distribution(name)
        for file in package.files or []:
            path = Path(str(package.locate_file(file)))
            if path.suffix != ".pyc" and path.is_file():
                total += path.stat().st_size
    return total / 1e6


def packages_of(peer: Peer, folder: Path) -> tuple[int, float]:
    """How many packages are installed for a peer, and their megabytes; (1, size) for a single program."""
    if peer.name.startswith(SERVICE):
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
        names = closure(project["dependencies"])
        return len(names), megabytes(names)
    if peer.packages:
        names = closure(peer.packages)
        return len(names), megabytes(names)
    program = folder / peer.name
    if program.is_file():
        return 1, program.stat().st_size / 1e6
    modules = peer.folder / "node_modules"
    count = sum(1 for path in modules.glob("**/package.json") if is_package(path, modules))
    return count, sum(path.stat().st_size for path in modules.rglob("*") if path.is_file()) / 1e6


def is_package(path: Path, modules: Path) -> bool:
    """Whether a package.json is that of a package, not one that lies deeper within it."""
    inside = path.relative_to(modules).parts[:-1]
    return len(inside) == (2 if inside and inside[0].startswith("@") else 1)


def describe(peer: Peer, folder: Path) -> dict[str, Any]:
    """What is counted of a peer that is here."""
    count, size = packages_of(peer, folder)
    counted: dict[str, Any] = {"lines": lines_of(peer.sources), "packages": count, "megabytes": size}
    if peer.name.startswith(SERVICE):
        counted["lines_core"] = lines_of(CORE)
    return counted


TRIPPED = ("point", "page", "lookup", "patch", "create")


def count_trips(peer: Peer, table: Table, folder: Path, count: int, idle: float) -> dict[str, Any]:
    """SQL round trips a request: one at a time by kind of work, and `point_64` with 64 at once.

    `idle` is how many there are in a second without a request, watched for so many seconds; it is left out
    where they are none. A kind that fails is None.
    """
    sockets = folder / "proxy"
    sockets.mkdir(exist_ok=True)
    with (
        Proxy(sockets, table.folder()) as proxy,
        start(peer, table, folder, url=proxy.url(table.url)) as server,
    ):
        requests = Requests(table.token, table.rows, 0).fresh()
        requests.cursors = try_harvest(server, requests, 20)
        trips = {work: count_some(proxy, server, requests, work, count) for work in TRIPPED}
        trips["point_64"] = count_many(proxy, server, requests, count)
        if idle:
            trips["idle"] = count_idle(proxy, idle)
        return trips


def try_harvest(server: Server, requests: Requests, count: int) -> list[tuple[str, int]]:
    """A peer's cursors, none where its pages fail: the page's own runs will say why."""
    try:
        return harvest(server.port, requests, count)
    except (WorkError, OSError, KeyError, TypeError):
        return []


def count_some(proxy: Proxy, server: Server, requests: Requests, work: str, count: int) -> float | None:
    """Round trips a request, one at a time, after some that warm it."""
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
    """Round trips a second while nobody asks."""
    time.sleep(0.5)  # what the last request leaves to be done
    before = proxy.count
    time.sleep(seconds)
    return (proxy.count - before) / seconds


def wait_for_quiet(proxy: Proxy, seconds: float = 5) -> None:
    """Waits until nothing passes that was not asked for, such as what a service does at its start."""
    deadline, before = time.monotonic() + seconds, -1
    while time.monotonic() < deadline and before != (before := proxy.count):
        time.sleep(0.05)


def ask_some(connection: Connection, requests: Requests, work: str, count: int) -> None:
    """Asks and checks. Raises WorkError."""
    for _ in range(count):
        request = requests.make(work)
        if wrong := request.check(connection.ask(request.raw)):
            raise WorkError(wrong)


def count_many(proxy: Proxy, server: Server, requests: Requests, count: int) -> float | None:
    """Round trips a point read with 64 connections at once, after they were warmed."""

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
    """Seconds from a start to the first user read, of so many starts. Raises StartError."""
    times = []
    for _ in range(count):
        with start(peer, table, folder) as server:
            times.append(server.started_in)
    return times


def idle_cpu(cluster: Cluster, servers: Sequence[Server]) -> dict[str, float]:
    """The share of one core that each takes while nobody asks anything."""
    time.sleep(1)  # what a start leaves to be done
    sources = {server.peer.name: server.cpu for server in servers} | {"postgres": cluster.cpu}
    before = {name: source() for name, source in sources.items()}
    time.sleep(1)
    return {name: source() - before[name] for name, source in sources.items()}


def environment(arguments: Sequence[str], versions_of: Iterable[str]) -> dict[str, Any]:
    """Where and with what it ran."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m bench", *arguments]),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "postgres": postgres_version(),
        "wrk": said_by("wrk", "-v"),
        "node": said_by("node", "--version"),
        "go": said_by("go", "version"),
        "commit": said_by("git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"),
        "packages": {name: distribution(name).version for name in sorted(closure(versions_of))},
    }


def cpu_model() -> str:
    """As the kernel names it."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"model name\s*: (.+)", text)
    return named[1] if named else platform.processor() or platform.machine()


def said_by(*command: str) -> str:
    """The first line that a program prints, nothing where it is not here."""
    try:
        return run(command, 10)[1].partition("\n")[0].strip()
    except OSError:
        return ""
