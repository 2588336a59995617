"""What one client can do to the others: `python -m bench.abuse` takes a task as JSON on stdin and does it.

Each kind is a function of a task, which runs until its time is over. Most ask the same thing again and again
over some connections, each as soon as it is answered, as the plain point reads do that they are held against;
the others hold on to something: half a head, an export that is hardly read. Whoever is cut off connects anew.
"""

import itertools
import json
import random
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec
from msgspec import Struct

from bench.wire import WireError, parse_answer

HEAD = "{} HTTP/1.1\r\nHost: 127.0.0.1\r\n{}\r\n"
BODY_SIZE, HEAD_SIZE = 262_144, 65_536
"""Bytes of a body and of a head that the service takes by default."""

READ_SIZE = 1 << 18
PAUSE = 0.2
"""Seconds between two bytes of a client that is slow on purpose, and before it connects anew."""


class Task(Struct):
    """What to do, to whom, with which key, over how many connections, for how many seconds."""

    kind: str
    port: int
    token: str
    connections: int
    seconds: float


Abuse = Callable[[Task], None]


def write_get(target: str, *lines: str) -> bytes:
    """Return a request without a body."""
    return HEAD.format(f"GET {target}", "".join(f"{line}\r\n" for line in lines)).encode()


def write_post(target: str, body: bytes, *lines: str, size: int | None = None) -> bytes:
    """Return a request with a body, or with the beginning of one of `size` bytes."""
    length = f"Content-Length: {len(body) if size is None else size}"
    lines = (length, *lines) if any("Content-Type" in line for line in lines) else (length, JSON, *lines)
    return HEAD.format(f"POST {target}", "".join(f"{line}\r\n" for line in lines)).encode() + body


JSON, NDJSON = "Content-Type: application/json", "Content-Type: application/x-ndjson"


class Client:
    """One connection that asks again whenever it is answered, and connects anew where it is cut off."""

    def __init__(self, port: int, make: Callable[[], bytes]) -> None:
        self._port, self._make = port, make
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        self._unsent = memoryview(self._make())
        self._received = b""
        connection = socket.create_connection(("127.0.0.1", self._port), 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        return connection

    def step(self, selector: selectors.BaseSelector, events: int) -> None:
        """Send and receive what can be."""
        try:
            if events & selectors.EVENT_WRITE:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            if events & selectors.EVENT_READ:
                self._receive()
        except BlockingIOError:
            pass
        except (OSError, WireError):
            selector.unregister(self.socket)
            self.socket.close()
            self.socket = self._connect()
            selector.register(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        selector.modify(self.socket, wanted, self)

    def _receive(self) -> None:
        received = self.socket.recv(READ_SIZE)
        if not received:
            raise WireError("cut off")
        self._received += received
        if answer := parse_answer(self._received):
            self._received = self._received[answer.size :]
            if self._unsent:  # refused before it was sent
                raise WireError("refused")
            self._unsent = memoryview(self._make())


def ask(make: Callable[[Task], Callable[[], bytes]]) -> Abuse:
    """Return an abuse that asks for what `make` gives, over and over."""

    def run(task: Task) -> None:
        selector, request = selectors.DefaultSelector(), make(task)
        for _ in range(task.connections):
            client = Client(task.port, request)
            selector.register(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        end = time.monotonic() + task.seconds
        while time.monotonic() < end:
            for key, events in selector.select(0.1):
                key.data.step(selector, events)

    return run


def ask_same(make: Callable[[str], bytes]) -> Abuse:
    """Return an abuse that asks for one thing, made of the line of the key."""

    def prepare(task: Task) -> Callable[[], bytes]:
        raw = make(f"Authorization: Bearer {task.token}")
        return lambda: raw

    return ask(prepare)


def hold(make: Callable[[str], Iterable[bytes]], *, reads: bool = False) -> Abuse:
    """Return an abuse that sends some parts, the first as a whole, then one each PAUSE; and hardly reads."""

    def run(task: Task) -> None:
        end = time.monotonic() + task.seconds
        held: list[tuple[socket.socket, list[bytes]]] = []
        while time.monotonic() < end:
            for connection, parts in [*held]:
                if not send_next(connection, parts, reads=reads):
                    connection.close()
                    held.remove((connection, parts))
            while len(held) < task.connections and time.monotonic() < end:
                with suppress(OSError):
                    held.append(open_holding(task, make))
            time.sleep(PAUSE)

    return run


def open_holding(task: Task, make: Callable[[str], Iterable[bytes]]) -> tuple[socket.socket, list[bytes]]:
    """Connect with a small window, and send the first part."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(1)
    connection.connect(("127.0.0.1", task.port))
    first, *parts = make(f"Authorization: Bearer {task.token}")
    with suppress(TimeoutError):
        connection.sendall(first)
    connection.setblocking(False)
    return connection, parts


def send_next(connection: socket.socket, parts: list[bytes], *, reads: bool) -> bool:
    """Send one more part, read a little; return whether the connection is still there."""
    try:
        if parts:
            connection.send(parts.pop(0))
        return connection.recv(1024 if reads else 1, 0 if reads else socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def blanks_in_a_body(key: str) -> bytes:
    """Return an address of blanks, on which a pattern may track back."""
    email = " " * 2046 + ">"
    return write_post("/users", json.dumps({"email": email, "password": "long enough"}).encode(), key)


def blanks_in_lines(key: str) -> bytes:
    """Return the same in each line of an import."""
    line = json.dumps({"email": " " * 2046 + ">", "password": "long enough"}).encode() + b"\n"
    return write_post("/users/import", line * 100, NDJSON, key)


def long_addresses(key: str) -> bytes:
    """Return a thousand long addresses that are not in ASCII."""
    labels = ".".join(["äöü" * 6] * 4)
    emails = [f"{'ñ' * 20}{number}@{labels}.com" for number in range(1000)]
    return write_post("/users/lookup", json.dumps({"emails": emails}, ensure_ascii=False).encode(), key)


def one_byte_chunks(key: str) -> bytes:
    """Return a body in as many chunks as it has bytes."""
    head = HEAD.format("POST /users/lookup", f"Transfer-Encoding: chunked\r\n{JSON}\r\n{key}\r\n")
    return head.encode() + b"1\r\n \r\n" * (BODY_SIZE - 2) + b"2\r\n{}\r\n0\r\n\r\n"


def nested_values(key: str) -> bytes:
    """Return a profile of as many values as fit."""
    start, values = b'{"profile": {"a": [', b"[],[],[],[],[],[],[],"
    body = start + values * ((BODY_SIZE - 100) // len(values)) + b"[]]}}"
    return write_post("/users/2", body, key).replace(b"POST", b"PATCH", 1)


def unfinished_head(key: str) -> list[bytes]:
    """Return all but the end of a head."""
    head = f"GET /users/1 HTTP/1.1\r\nHost: h\r\n{key}\r\n".encode()
    return [head + b"a: " + b"x" * (HEAD_SIZE - len(head) - 100), *[b"x"] * 90]


def unfinished_body(key: str) -> list[bytes]:
    """Return all but the end of a body."""
    return [write_post("/users", b" " * (BODY_SIZE - 200), key, size=BODY_SIZE), *[b" "] * 190]


def slow_export(key: str) -> list[bytes]:
    """Return an export that is hardly read."""
    return [write_get("/users/export", key)]


def slow_import(key: str) -> list[bytes]:
    """Return an import that hardly comes in."""
    return [write_post("/users/import", b"", NDJSON, key, size=10**6), *[b"\n"] * 10_000]


def endless_body(task: Task) -> Callable[[], bytes]:
    """Return a large body that nobody asked for."""
    raw = write_post("/nowhere", b"x" * 200_000_000)
    return lambda: raw


def registrations(task: Task) -> Callable[[], bytes]:
    """Return new users, whose passwords are hashed, without a key."""
    tag, numbers = random.randrange(10**9), itertools.count()

    def make() -> bytes:
        email = f"abuse-{tag}-{next(numbers)}@example.com"
        return write_post("/users", json.dumps({"email": email, "password": "long enough"}).encode())

    return make


ABUSES: dict[str, Abuse] = {
    "points": ask_same(lambda key: write_get("/users/1", key)),
    "readiness": ask_same(lambda key: write_get("/health/ready")),
    "strangers": ask_same(lambda key: write_get("/users/1")),
    "nowhere": ask_same(lambda key: write_get("/nowhere", key)),
    "blanks in a body": ask_same(blanks_in_a_body),
    "blanks in a query": ask_same(lambda key: write_get(f"/users?email={'+' * 2046}%3E", key)),
    "blanks in an import": ask_same(blanks_in_lines),
    "long addresses": ask_same(long_addresses),
    "one-byte chunks": ask_same(one_byte_chunks),
    "many fields": ask_same(lambda key: write_get("/users/1", key, *["a:"] * 16_000)),
    "empty lines": ask_same(lambda key: write_post("/users/import", b"{}\n" * 400_000, NDJSON, key)),
    "nested values": ask_same(nested_values),
    "large profiles": ask_same(lambda key: write_get("/users?limit=1000&sort=-id&fields=id,profile", key)),
    "large pages": ask_same(lambda key: write_get("/users?limit=1000", key)),
    "exact counts": ask_same(
        lambda key: write_get("/users?limit=1&is_active=true", key, "Prefer: count=exact")
    ),
    "walks": ask_same(lambda key: write_get("/users?sort=-email&created_from=2999-01-01T00:00:00Z", key)),
    "exports": ask_same(lambda key: write_get("/users/export", key)),
    "unfinished heads": hold(unfinished_head),
    "unfinished bodies": hold(unfinished_body),
    "slow exports": hold(slow_export, reads=True),
    "slow imports": hold(slow_import),
    "endless bodies": ask(endless_body),
    "registrations": ask(registrations),
    "short connections": ask_same(lambda key: write_get("/nowhere", "Connection: close")),
    "idle connections": hold(lambda key: [b""]),
}
"""What can be done, by name. The first is what each is held against."""


def main() -> None:
    """Read a task from stdin and do it."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    ABUSES[task.kind](task)


if __name__ == "__main__":
    main()
