"""How many times the point reads of FastAPI + SQLModel this service does: `python -m bench.point_read`.

One worker each, the same PostgreSQL, the same rows, the same key on each request, wrk with one thread and
64 connections. The two take turns, so that a machine whose speed drifts slows both; what counts is the
ratio of each pair, and their median.
"""

import argparse
import asyncio
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import httpx
import psutil

from svc.config import Config, DatabaseUrl
from svc.db import Database
from svc.embedded import EmbeddedServer
from svc.migrate import migrate
from svc.security import SCOPES, ApiKeyQueries, create_key

SEED = """
insert into users (email, hashed_password, display_name)
select 'user' || n || '@example.com', 'no password', 'User ' || n from generate_series(1, $1::int) as n
"""

LUA = """
local rows = {rows}
math.randomseed(1)
wrk.headers["Authorization"] = "Bearer {token}"
request = function() return wrk.format("GET", "/users/" .. math.random(rows)) end
"""


async def prepare(url: DatabaseUrl, rows: int) -> str:
    """Migrates, seeds, and makes a key."""
    config = Config(database_url=url)
    await migrate(config)
    connection = await asyncpg.connect(url)
    await connection.execute(SEED, rows, timeout=600)
    await connection.execute("vacuum analyze users", timeout=600)
    await connection.close()
    database = Database(config)
    token = await create_key("bench", list(SCOPES), None, ApiKeyQueries.bind(database))
    await database.close()
    return token


@contextmanager
def run(port: int, *command: str, **environment: str) -> Iterator[psutil.Process]:
    """A server process, once it answers; ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def measure(port: int, process: psutil.Process, script: Path, seconds: int) -> tuple[float, float]:
    """Requests a second, and the process's CPU time for each in µs. A run with an answer not 2xx is void."""
    command = ["wrk", "-t1", "-c64", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}"]
    before = sum(process.cpu_times()[:2])
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        print("void, once more: an answer was not 2xx, or did not come in time", flush=True)
        return measure(port, process, script, seconds)
    used = sum(process.cpu_times()[:2]) - before
    rate, count = (
        re.search(pattern, output) for pattern in (r"Requests/sec:\s+([\d.]+)", r"(\d+) requests in")
    )
    assert rate
    assert count
    return float(rate[1]), used / int(count[1]) * 1e6


def main() -> None:
    """Starts both, measures them in turn, prints each pair and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = DatabaseUrl(stack.enter_context(EmbeddedServer(folder / "data")).url)
        token = asyncio.run(prepare(url, options.rows))
        script = folder / "read.lua"
        script.write_text(LUA.format(rows=options.rows, token=token))
        service = stack.enter_context(run(8201, "svc", "serve", "--port", "8201", DATABASE_URL=url))
        flags = "--port 8202 --loop uvloop --http httptools --log-level warning"
        flags += " --no-access-log --no-proxy-headers"
        environment = {
            "PEER_DATABASE_URL": url.for_driver("asyncpg"),
            "PEER_KEY_HASH": hashlib.sha256(token.encode()).hexdigest(),
        }
        peer = "bench.peers.fastapi_sqlmodel:app"
        other = stack.enter_context(run(8202, "uvicorn", peer, *flags.split(), **environment))
        servers = {8201: service, 8202: other}
        for port, process in servers.items():
            measure(port, process, script, 1)
        ratios: list[float] = []
        for _ in range(options.rounds):
            (ours, cpu), (theirs, their_cpu) = (
                measure(port, process, script, options.seconds) for port, process in servers.items()
            )
            ratios.append(ours / theirs)
            print(
                f"bareline {ours:6.0f}/s {cpu:5.0f} µs"
                f"   FastAPI + SQLModel {theirs:6.0f}/s {their_cpu:5.0f} µs   {ratios[-1]:5.1f}×",
                flush=True,
            )
        resident = service.memory_info().rss / 1e6
        print(f"median {statistics.median(ratios):.1f}×, {resident:.0f} MB resident in one worker")


if __name__ == "__main__":
    main()
