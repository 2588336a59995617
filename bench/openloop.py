"""The open loop: requests at a fixed rate, whatever the server does.

Request i is due at start + i / rate, and its latency counts from that moment: what a stall keeps waiting
is counted in full (no coordinated omission). A request that is due waits for a free connection. One
process, one thread, epoll, everything prepared beforehand: `python -m bench.openloop` takes its job as
JSON on stdin and prints the outcome as JSON.

`lag` is how late the generator itself was with a connection free. Where that is much, the figures are the
generator's and not the server's. On few cores it competes with what it measures: it takes a higher priority
where it may, as if it ran on a machine of its own.
"""

import gc
import math
import os
import select
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from bench.records import Outcome
from bench.wire import WireError, parse_answer
from bench.work import Cursor, Request, Requests

GRACE = 5.0
"""Seconds that the last answers may take."""

MOST_LAG, MOST_LAG_SHARE = 1.0, 0.1
"""ms at the 99th percentile that the generator may be late, or that share of the latency there."""

PRIORITY = -10

DIGITS = b"0123456789"


class Job(Struct):
    """A run: `rate` requests of a work a second, for so many seconds, over so many connections."""

    port: int
    rate: float
    seconds: float
    connections: int
    work: str
    token: str
    rows: int
    tag: int
    cursors: list[Cursor]


def has_id(body: bytes, id_: int) -> bool:
    """Return whether the first id in a body is this one, and not one that it is the beginning of."""
    for form in (b'"id":%d' % id_, b'"id": %d' % id_):
        at = body.find(form)
        if at >= 0:
            return body[at + len(form) : at + len(form) + 1] not in DIGITS
    return False


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class InvalidAnswer(Exception):
    """An answer is not what it should be: the run is void."""


class Generator:
    """One run: `requests` in order, `rate` of them a second, over some connections."""

    def __init__(self, port: int, requests: list[Request], rate: float, connections: int) -> None:
        self._requests, self._rate = requests, rate
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            self._epoll.register(connection, select.EPOLLIN)
            self._sockets[connection.fileno()] = connection
        self._free = deque((fd, 0.0) for fd in self._sockets)
        self._busy: dict[int, tuple[Request, float, float]] = {}
        self._parts = dict.fromkeys(self._sockets, b"")
        self.latencies, self.from_send, self.lags = array("d"), array("d"), array("d")

    def run(self) -> None:
        """Send all requests and wait for the answers. Raises InvalidAnswer, WireError, OSError."""
        clock = time.perf_counter
        total, rate, sent = len(self._requests), self._rate, 0
        begin = clock() + 0.01
        deadline = begin + total / rate + GRACE
        while len(self.latencies) < total:
            now = clock()
            while sent < total and self._free and (due := begin + sent / rate) <= now:
                self._send(self._requests[sent], due, now)
                sent += 1
                now = clock()
            if now > deadline:
                raise InvalidAnswer(f"{total - len(self.latencies)} of {total} not answered in time")
            until = begin + sent / rate if sent < total and self._free else deadline
            # epoll itself waits in whole ms; select on it, in µs.
            if select.select([self._epoll], [], [], max(0.0, until - now))[0]:
                for fd, _ in self._epoll.poll(0):
                    self._receive(fd)

    def _send(self, request: Request, due: float, now: float) -> None:
        fd, freed = self._free.popleft()
        if freed <= due:
            self.lags.append(now - due)
        self._busy[fd] = request, due, now
        if self._sockets[fd].send(request.raw) != len(request.raw):
            raise InvalidAnswer("a request did not fit the socket")

    def _receive(self, fd: int) -> None:
        received = self._sockets[fd].recv(1 << 18)
        if not received or fd not in self._busy:
            raise InvalidAnswer("a connection was closed" if not received else "an answer to no request")
        data = self._parts[fd] + received
        answer = parse_answer(data)
        if answer is None:
            self._parts[fd] = data
            return
        request, due, sent = self._busy.pop(fd)
        if not 200 <= answer.status < 300:
            raise InvalidAnswer(f"status {answer.status}")
        if request.id is not None and not has_id(answer.body, request.id):
            raise InvalidAnswer(f"an answer without the id {request.id}: {answer.body[:80]!r}")
        now = time.perf_counter()
        self.latencies.append(now - due)
        self.from_send.append(now - sent)
        self._parts[fd] = data[answer.size :]
        self._free.append((fd, now))

    def close(self) -> None:
        """Close all connections."""
        for connection in self._sockets.values():
            connection.close()
        self._epoll.close()


def drive(port: int, requests: list[Request], rate: float, connections: int) -> Outcome:
    """Run the requests; return exact percentiles in ms of all answers, or why the run is void."""
    generator = Generator(port, requests, rate, connections)
    started = time.perf_counter()
    try:
        generator.run()
    except (InvalidAnswer, WireError, OSError) as error:
        return Outcome(void=str(error))
    finally:
        generator.close()
    return summarize(generator, time.perf_counter() - started)


def summarize(generator: Generator, seconds: float) -> Outcome:
    """Return the percentiles of a run that went well. `limited_by_generator` where the lag is too much."""
    latencies, from_send = sorted(generator.latencies), sorted(generator.from_send)
    lag = percentile(sorted(generator.lags), 0.99) * 1e3 if generator.lags else 0.0
    p50, p90, p99, p99_9 = (percentile(latencies, share) * 1e3 for share in (0.5, 0.9, 0.99, 0.999))
    return Outcome(
        void=None,
        requests=len(latencies),
        seconds=seconds,
        rate=len(latencies) / seconds,
        p50=p50,
        p90=p90,
        p99=p99,
        p99_9=p99_9,
        from_send_p99=percentile(from_send, 0.99) * 1e3,
        lag_p99=lag,
        limited_by_generator=lag > max(MOST_LAG, p99 * MOST_LAG_SHARE),
    )


def main() -> None:
    """Read a job from stdin, run it, print the outcome; both are JSON."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    requests = Requests(job.token, job.rows, job.tag, job.cursors)
    prepared = [requests.make(job.work) for _ in range(int(job.rate * job.seconds))]
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    gc.collect()
    gc.freeze()
    gc.disable()
    print(msgspec.json.encode(drive(job.port, prepared, job.rate, job.connections)).decode())


if __name__ == "__main__":
    main()
