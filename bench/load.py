"""The closed loop: wrk with one thread, and a canary beside it that looks inside answers.

A run is void where an answer is not 2xx, a socket fails, the bytes do not fit what was sampled before, or
the canary finds anything wrong. wrk's percentiles are corrected for coordinated omission by its own
estimate (`stats_correct`); the fixed rate of openloop.py measures what is only estimated here.
"""

import math
import statistics
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct, field

from bench.processes import run
from bench.wire import Connection, WireError
from bench.work import Requests, WorkError

SCRIPT = Path(__file__).with_name("load.lua")

TOLERANCE = 0.03
"""How far the mean size of an answer may be off, beside what chance makes of it."""

CANARY_PAUSE = 0.05
"""Seconds between two requests of the canary: it must not be a load of its own."""


class WrkResult(Struct):
    """What load.lua prints at its end: times in seconds, latencies in ms, and the errors by kind."""

    requests: int
    bytes: int
    seconds: float
    p50: float
    p90: float
    p99: float
    p99_9: float = field(name="p99.9")
    connect: int
    read: int
    write: int
    status: int
    timeout: int


class Sample(Struct, frozen=True):
    """Sizes of answers that were checked, in bytes on the wire."""

    mean: float
    deviation: float
    count: int


def take_sample(port: int, requests: Requests, work: str, count: int) -> Sample:
    """Ask one at a time and check each answer; return their sizes. Raises WorkError at a wrong one."""
    sizes: list[int] = []
    try:
        with Connection(port) as connection:
            for _ in range(count):
                request = requests.make(work)
                answer = connection.ask(request.raw)
                if wrong := request.check(answer):
                    raise WorkError(wrong)
                sizes.append(answer.size)
    except (OSError, WireError) as error:
        raise WorkError(str(error)) from None
    return Sample(statistics.fmean(sizes), statistics.pstdev(sizes), count)


class Canary:
    """One slow connection during a run. `wrong` is the first thing amiss, `count` the answers that it saw."""

    def __init__(self, port: int, requests: Requests, work: str) -> None:
        self.wrong: str | None = None
        self.count = 0
        self._port, self._requests, self._work = port, requests, work
        self._stop = threading.Event()

    def _ask(self) -> None:
        try:
            with Connection(self._port) as connection:
                while not (self._stop.wait(CANARY_PAUSE) or self.wrong):
                    request = self._requests.make(self._work)
                    self.wrong = request.check(connection.ask(request.raw))
                    self.count += 1
        except (OSError, WireError) as error:
            self.wrong = str(error)

    @contextmanager
    def running(self) -> Generator[None]:
        """Ask and check for as long as the block lasts."""
        thread = threading.Thread(target=self._ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30)


def run_wrk(
    port: int, requests: Requests, work: str, connections: int, seconds: float, folder: Path
) -> WrkResult:
    """Run wrk for so many seconds, with one thread. Raises WorkError where wrk itself fails."""
    prepared = folder / "prepared.txt"
    prepared.write_text(requests.prepared(work))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(SCRIPT)]
    command += [f"http://127.0.0.1:{port}", "--", requests.token, str(requests.rows), str(requests.tag)]
    try:
        code, output = run([*command, str(prepared)], seconds + 30)
    except subprocess.TimeoutExpired:
        raise WorkError("wrk did not end") from None
    last = output.strip().rpartition("\n")[2]
    if code or not last.startswith("{"):
        raise WorkError(f"wrk failed: {output.strip()[-200:]}")
    return msgspec.json.decode(last, type=WrkResult)


def find_fault(result: WrkResult, sample: Sample, canary: Canary) -> str | None:
    """Return why a run is void, or None."""
    if canary.wrong:
        return f"the canary: {canary.wrong}"
    if result.status:
        return f"{result.status} answers not 2xx"
    for kind in ("connect", "read", "write", "timeout"):
        if count := getattr(result, kind):
            return f"{count} {kind} errors"
    if not result.requests or not canary.count:
        return "no answer"
    mean = result.bytes / result.requests
    error = math.sqrt(1 / result.requests + 1 / sample.count)
    if abs(mean - sample.mean) > sample.mean * TOLERANCE + 4 * sample.deviation * error:
        return f"{mean:.0f} bytes an answer, where the checked ones had {sample.mean:.0f}"
    return None
