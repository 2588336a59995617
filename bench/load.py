"""The closed loop: wrk with one thread, and a canary beside it that looks inside answers.

A run is void where an answer is not 2xx, a socket fails, the bytes do not fit what was sampled before, or
the canary finds anything wrong. wrk's percentiles are corrected for coordinated omission by its own
estimate (`stats_correct`); the fixed rate of openloop.py measures what is only estimated here.
"""

import json
import math
import statistics
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import run
from bench.wire import Connection, WireError
from bench.work import Requests, WorkError

SCRIPT = Path(__file__).with_name("load.lua")

TOLERANCE = 0.03
"""How far the mean size of an answer may be off, beside what chance makes of it."""

CANARY_PAUSE = 0.05
"""Seconds between two requests of the canary: it must not be a load of its own."""


class Sample(NamedTuple):
    """Sizes of answers that were checked, in bytes on the wire."""

    mean: float
    deviation: float
    count: int


def take_sample(port: int, requests: Requests, work: str, count: int) -> Sample:
    """Asks one at a time and checks each answer. Raises WorkError at the first that is wrong."""
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

    def _sing(self) -> None:
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
        """The canary sings for as long as the block lasts."""
        thread = threading.Thread(target=self._sing, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30)


def run_wrk(
    port: int, requests: Requests, work: str, connections: int, seconds: float, folder: Path
) -> dict[str, Any]:
    """What load.lua's done() prints: requests, bytes, seconds, percentiles in ms, errors by kind.

    Raises WorkError where wrk itself fails.
    """
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
    return dict(json.loads(last))


def find_fault(result: dict[str, Any], sample: Sample, canary: Canary) -> str | None:
    """Why a run is void, or None."""
    if canary.wrong:
        return f"the canary: {canary.wrong}"
    for kind in ("status", "connect", "read", "write", "timeout"):
        if result[kind]:
            return f"{result[kind]} answers not 2xx" if kind == "status" else f"{result[kind]} {kind} errors"
    if not result["requests"] or not canary.count:
        return "no answer"
    mean = result["bytes"] / result["requests"]
    error = math.sqrt(1 / result["requests"] + 1 / sample.count)
    if abs(mean - sample.mean) > sample.mean * TOLERANCE + 4 * sample.deviation * error:
        return f"{mean:.0f} bytes an answer, where the checked ones had {sample.mean:.0f}"
    return None
