"""Raw bytes to the service and back, and services that share one database."""

import itertools
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

import svc.hot
from svc.config import Config, DatabaseUrl
from svc.headers import PROCESS
from tests.conftest import NUMBERS, TEMPLATE, Service, at, make_key

VARYING = re.compile(rb"(?<=\r\ndate: )[^\r]+|" + PROCESS.encode() + rb"-[0-9a-f]+")
"""What differs between two answers that are the same: the date, and an id that the service made."""


def normalise(answers: bytes) -> bytes:
    """Answers without what differs each time."""
    return VARYING.sub(b"*", answers)


class Ground:
    """A database with the users 1 to 9, and a key that may read them and one that may not."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url
        self.config = Config(database_url=url, hash_memory=8, hash_passes=1, pool_size=4)
        self.key, self.poor_key = make_key(self.config), make_key(self.config, "users:write")
        self.bearer = f"Authorization: Bearer {self.key}"
        with psycopg.connect(url) as connection:
            connection.execute(
                "insert into users (email, hashed_password) select n || '@example.com', 'x' from generate_series(1, 9) n"
            )

    @contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Makes every use of the users wait; what it gives waits until somebody does."""
        with psycopg.connect(self.url) as holder, psycopg.connect(self.url, autocommit=True) as watcher:
            holder.execute("lock table users in access exclusive mode")

            def wait() -> None:
                waiting = "select from pg_locks where not granted and relation = 'users'::regclass"
                deadline = time.monotonic() + 10
                while not watcher.execute(waiting).fetchall():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)

            yield wait


@contextmanager
def make_ground(server_url: DatabaseUrl, admin: Callable[[str], None], template: str) -> Iterator[Ground]:
    """A ground for all tests of a module."""
    name = f"{TEMPLATE}_{next(NUMBERS)}"
    admin(f"create database {name} template {template}")
    yield Ground(at(server_url, name))
    admin(f"drop database {name} with (force)")


class Wire:
    """A connection that sends bytes as they are, each piece a packet of its own."""

    def __init__(self, service: Service, timeout: float = 10) -> None:
        self.socket = socket.create_connection(service.address, timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes, pause: float = 0.001) -> None:
        """Sends pieces with a pause between any two; gives up where nobody listens any more."""
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(pause)
            try:
                self.socket.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                return

    def half_close(self) -> None:
        """Says that nothing more will come."""
        with suppress(OSError):  # the service may have closed it already
            self.socket.shutdown(socket.SHUT_WR)

    def ask(self, *pieces: bytes) -> bytes:
        """Sends a request and reads its answer."""
        self.send(*pieces)
        return self.read()

    def read(self, *, to_head: bool = False) -> bytes:
        """One answer, or what there is of it where the connection ends; without a body to a HEAD."""
        while not (head := re.match(rb"(?s).*?\r\n\r\n", self._unread)):
            if not self._receive():
                return self._take(len(self._unread))
        length = re.search(rb"\r\ncontent-length: (\d+)", head[0])
        size = len(head[0]) + (int(length[1]) if length and not to_head else 0)
        while len(self._unread) < size and self._receive():
            pass
        return self._take(size)

    def read_all(self) -> bytes:
        """Everything until the service closes the connection. Raises TimeoutError where it does not."""
        while self._receive():
            pass
        return self._take(len(self._unread))

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._unread += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken


def status_of(answer: bytes) -> int:
    """The status of an answer; 0 for none."""
    return int(answer[9:12] or 0)


def statuses(answers: bytes) -> list[int]:
    """Of several answers."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", answers)]


def get(path: str, *lines: str) -> bytes:
    """A GET with these header lines."""
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: x", *lines, "")).encode()


LAST = get("/health/live", "Connection: close")
"""A request after which the connection closes."""


@contextmanager
def serve(config: Config, **settings: Any) -> Iterator[Service]:
    """A service with settings of uvicorn's, such as `timeout_keep_alive`."""
    service = Service(config)
    for name, value in settings.items():
        assert hasattr(service.server.config, name)
        setattr(service.server.config, name, value)
    with service:
        yield service


class Taken:
    """Counts the requests that take the short cut, of all services of this process."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        match = svc.hot.ShortCuts.match

        def count(short_cuts: svc.hot.ShortCuts, data: bytes) -> Any:
            found = match(short_cuts, data)
            self.count += found is not None
            return found

        patch.setattr(svc.hot.ShortCuts, "match", count)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Data in pieces, none of them empty."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]
