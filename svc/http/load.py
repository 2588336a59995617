"""What all connections of a worker do and hold together, and the bounds of it.

A limit for each connection bounds nothing where one client opens many. So the starts of a turn of the event
loop, the bytes of requests that are not whole, the connections, and what is read behind refusals are counted
here, once for a worker.
"""

import asyncio
import logging
import resource
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

MAX_STARTS = 16
"""Requests that start in one turn of the event loop: 1 ms or so."""

SPARE_FILES = 64
"""File descriptors for what is no client: connections to PostgreSQL come on top."""

LOG_INTERVAL = 1.0
"""Seconds between two lines of the log that clients are refused."""

logger = logging.getLogger("svc")


class Holding(Protocol):
    """A connection with a request that comes in, or waits for its answer."""

    def give_way(self) -> None:
        """Refuse the request where it is not whole: all together are too much."""
        ...


class Load:
    """The counts of a worker: at most `max_connections`, and `max_held` bytes of requests that come in."""

    def __init__(self, max_connections: int, max_held: int) -> None:
        self.max_connections = max_connections
        self.max_held = max_held
        self.connections = self.lingering = self.held = 0
        self._holding: dict[Holding, int] = {}
        self._waiting: deque[Callable[[], None]] = deque()
        self._starts_left = MAX_STARTS
        self._told_at = float("-inf")

    def start(self, start: Callable[[], None]) -> None:
        """Start a request's task now, or in one of the next turns.

        What came on 200 connections at once would take a turn of 12 ms, and a read beside it, which takes
        four turns, some 50.
        """
        if not self._starts_left:
            self._waiting.append(start)
            return
        if self._starts_left == MAX_STARTS:
            asyncio.get_running_loop().call_soon(self._turn)
        self._starts_left -= 1
        start()

    def _turn(self) -> None:
        """Begin with a new turn, with those that wait."""
        self._starts_left = MAX_STARTS
        while self._waiting and self._starts_left:
            self._starts_left -= 1
            self._waiting.popleft()()
        if self._starts_left < MAX_STARTS:
            asyncio.get_running_loop().call_soon(self._turn)

    def connect(self) -> bool:
        """Count one more connection; return whether there is room for it."""
        self.connections += 1
        if self.connections <= self.max_connections:
            return True
        now = time.monotonic()
        if now - self._told_at >= LOG_INTERVAL:
            self._told_at = now
            logger.warning("clients are refused: %d connections are open", self.max_connections)
        return False

    def hold(self, connection: Holding, size: int) -> None:
        """Note that a connection holds so many bytes of a request.

        Where all together are too much, the oldest that are not whole are refused.
        """
        self.held += size - self._holding.get(connection, 0)
        self._holding[connection] = size
        if self.held > self.max_held:
            for each in [*self._holding]:
                each.give_way()
                if self.held <= self.max_held:
                    return

    @property
    def is_full(self) -> bool:
        """Return whether requests that wait for their answer hold too much as it is."""
        return self.held > self.max_held

    def let_go(self, connection: Holding) -> None:
        """Note that a connection holds nothing any more."""
        self.held -= self._holding.pop(connection, 0)


def find_max_connections(wanted: int, pool_size: int) -> int:
    """Return how many connections a worker may have: as many as it has file descriptors for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(wanted, files - pool_size - SPARE_FILES))
