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

import svc.http.fast_path
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.http.headers import PROCESS
from svc.http.protocol import State
from svc.http.resource import Build
from tests.support import SCOPES, Service, make_config, make_key, things
from tests.support.waiting import DEADLINE, wait_for

VARYING = re.compile(rb"(?<=\r\ndate: )[^\r]+|(?<=\r\netag: )[^\r]+|" + PROCESS + rb"-[0-9a-f]+")
"""What differs between two answers that are the same: the date, the version, and an id that the service made."""


def normalise(answers: bytes) -> bytes:
    """Answers without what differs each time."""
    return VARYING.sub(b"*", answers)


def count_waiting(service: Service) -> int:
    """The connections whose requests are whole, and whose answers are not."""
    connections = [*service.server.server_state.connections]
    states = [getattr(connection, "_state", None) for connection in connections]  # none for a moment
    return sum(state in (State.FAST, State.ANSWERING) for state in states)


FILLS = {
    "users": "insert into users (email, hashed_password) select n || '@example.com', 'x' from generate_series(1, 9) n",
    "things": "insert into things (name) select 'thing ' || n from generate_series(1, 9) n",
}
"""The rows 1 to 9 of each."""


class Ground:
    """A database with a table's rows 1 to 9, and a key that may read them and one that may not."""

    def __init__(self, url: DatabaseUrl, table: str) -> None:
        self.url = url
        self._table = table
        self.config = make_config(url)
        self.key, self.poor_key = (
            make_key(self.config, *SCOPES, *things.SCOPES),
            make_key(self.config, f"{table}:write"),
        )
        self.bearer = f"Authorization: Bearer {self.key}"
        with psycopg.connect(url) as connection:
            connection.execute(FILLS[table].encode())

    @contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Makes every use of the table wait; what it gives waits until somebody does."""
        with psycopg.connect(self.url) as holder, psycopg.connect(self.url, autocommit=True) as watcher:
            holder.execute(f"lock table {self._table} in access exclusive mode".encode())

            def wait() -> None:
                waiting = f"select from pg_locks where not granted and relation = '{self._table}'::regclass"
                wait_for(lambda: watcher.execute(waiting.encode()).fetchall())

            yield wait


class Wire:
    """A connection that sends bytes as they are, each piece a packet of its own."""

    def __init__(self, service: Service, timeout: float = DEADLINE, source: str | None = None) -> None:
        self.socket = socket.create_connection(service.address, timeout, (source, 0) if source else None)
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
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head[0])  # a proxy writes it in its own way
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


def make(start: str, *lines: str) -> bytes:
    """A request out of its first line and its headers."""
    return "".join(f"{line}\r\n" for line in (start, "Host: x", *lines, "")).encode()


def get(path: str, *lines: str) -> bytes:
    """A GET with these headers."""
    return make(f"GET {path} HTTP/1.1", *lines)


def send_json(start: str, body: str, *lines: str, kind: str = "application/json") -> bytes:
    """A request with a body, which is JSON unless another `kind` is said."""
    data = body.encode()
    return make(f"{start} HTTP/1.1", f"Content-Type: {kind}", f"Content-Length: {len(data)}", *lines) + data


LAST = get("/health/live", "Connection: close")
"""A request after which the connection closes."""


@contextmanager
def serve(config: Config, *more: Build, own: bool = True, **settings: Any) -> Iterator[Service]:
    """A service with things, where it is of the tests' `own`, and settings of uvicorn's, such as `timeout_keep_alive`."""
    service = Service(config, things.build, *more, proven=things.PROVEN) if own else Service(config, *more)
    for name, value in settings.items():
        assert hasattr(service.server.config, name)
        setattr(service.server.config, name, value)
    with service:
        yield service


class Taken:
    """Counts the requests that take the short cut, of all services of this process."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        match = svc.http.fast_path.FastPath.match

        def count(short_cuts: svc.http.fast_path.FastPath, data: bytes) -> Any:
            found = match(short_cuts, data)
            self.count += found is not None
            return found

        patch.setattr(svc.http.fast_path.FastPath, "match", count)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Data in pieces, none of them empty."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


CLIENTS = {
    "curl": ["User-Agent: curl/8.5.0", "Accept: */*"],
    "httpx": [
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        "Connection: keep-alive",
        "User-Agent: python-httpx/0.28.1",
    ],
    "fetch": [
        "Connection: keep-alive",
        'sec-ch-ua: "Chromium";v="130", "Not?A_Brand";v="99"',
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0",
        "Accept: */*",
        "Origin: http://localhost:3000",
        "Sec-Fetch-Mode: cors",
        "Referer: http://localhost:3000/",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-GB,en;q=0.9",
        "Cookie: a=b; c=d",
    ],
    "requests": [
        "User-Agent: python-requests/2.32.3",
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        "Connection: keep-alive",
    ],
    "aiohttp": ["Accept: */*", "Accept-Encoding: gzip, deflate", "User-Agent: Python/3.11 aiohttp/3.11.0"],
    "axios": [
        "Accept: application/json, text/plain, */*",
        "User-Agent: axios/1.7.9",
        "Accept-Encoding: gzip, compress, deflate, br",
        "Connection: keep-alive",
    ],
    "undici": [
        "connection: keep-alive",
        "accept: */*",
        "accept-language: *",
        "sec-fetch-mode: cors",
        "user-agent: node",
    ],
    "httpie": [
        "User-Agent: HTTPie/3.2.4",
        "Accept-Encoding: gzip, deflate",
        "Accept: application/json, */*;q=0.5",
        "Connection: keep-alive",
    ],
    "curl --http2": [
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
    ],
    "wget": ["User-Agent: Wget/1.21.3", "Accept: */*", "Accept-Encoding: identity", "Connection: Keep-Alive"],
    "okhttp": ["Connection: Keep-Alive", "Accept-Encoding: gzip", "User-Agent: okhttp/4.12.0"],
    "java": [
        "Connection: Upgrade, HTTP2-Settings",
        "HTTP2-Settings: AAEAAEAA",
        "Upgrade: h2c",
        "User-Agent: Java-http-client/21",
    ],
    "a generated client": ["Accept: application/json", "User-Agent: OpenAPI-Generator/1.0.0/python"],
    "a page in a browser": [
        "Connection: keep-alive",
        "Upgrade-Insecure-Requests: 1",
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "Accept-Language: en-GB,en;q=0.5",
    ],
    "nginx": [
        "Connection: close",
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        "X-Real-IP: 10.0.0.1",
        "X-Forwarded-For: 10.0.0.1",
    ],
    "a mesh": [
        "x-request-id: 0b1f2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate: a=b",
        "x-b3-traceid: 4bf92f3577b34da6",
        "x-envoy-expected-rq-timeout-ms: 15000",
    ],
    "k6": ["User-Agent: k6/0.55.0", "Accept-Encoding: gzip"],
    "wrk": [],
    "autocannon": ["Connection: keep-alive"],
    "h2load": ["user-agent: h2load nghttp2/1.52.0"],
    "go": ["User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"],
    "none": [],
}


def unescape(text: str) -> list[str]:
    """The parts between bars and line ends, their escapes undone."""
    return [part.encode().decode("unicode_escape") for part in re.split(r" \| |\n", text.strip("\n"))]


UNPLAIN_PATHS = r"""/users/0 /users/01 /users/-1 /users/+1 /users/1.0 /users/1a /users/1/ //users/1 /USERS/1 /users/1;x
/users/ / /users/1_0 /users/9223372036854775808 /users/99999999999999999999 /users/%31 /%75sers/1 /users/%D9%A3
/users/1%20 /users/1%0A /users/1? /users/1?fields=id /users/1?x=y /users/1#x /users/\xb2 /users/\u0663 /users
/health/live /health/1 /nope/1 users/1 http://x/users/1 * 1""".split()

PLAIN_PAGES = """/users?limit=2 /users?sort=-id /users?limit=9&sort=email /users?limit=8&sort=-created_at /users?is_active=true
/users?is_active=false&limit=1 /users?fields=id,email /users?limit=3&fields=profile,id /users?cursor=none&limit=2
/users?created_from=2020-01-01T00:00:00Z&limit=1 /users?limit=2&cursor={cursor} /users?cursor={cursor}&limit=1000
/users?cursor={cursor}&sort=-id""".split()

UNPLAIN_PAGES = """/users? /users?limit=0 /users?limit=1001 /users?limit=x /users?limit=1&limit=2 /users?limit=1&x=y /users?limit
/users?limit= /users?limit=%31 /users?limit=+1 /users?cursor=null /users?email=NULL /users?=1 /users?limit=2& /users?&limit=2
/users?limit=2&&sort=id /users?limit==2 /users?limit=2;sort=id /users?limit=2? /users?limit=2#x /users?limit=2/1
/users?sort=name /users?fields=id,hashed_password /users?email=x /users?created_from=now /USERS?limit=2 /users/?limit=2
/nope?limit=2 /users/export?limit=2 /users?fields=id,%20email /users?created_from=2020-01-01T00:00:00+00:00
/users?email=3@example.com /users?email=nobody@example.com&fields=id /users?email=3@example.com&cursor=none""".split()

UNPLAIN_STARTS = unescape(r"""
HEAD /users/1 HTTP/1.1 | get /users/1 HTTP/1.1 | OPTIONS /users/1 HTTP/1.1 | PUT /users/1 HTTP/1.1 | PATCH /users/1 HTTP/1.1
TRACE /users/1 HTTP/1.1 | CONNECT /users/1 HTTP/1.1 | GETS /users/1 HTTP/1.1 | ET /users/1 HTTP/1.1 | \r\nGET /users/1 HTTP/1.1
GET /users/1 HTTP/1.2 | GET /users/1 HTTP/2.0 | GET /users/1 http/1.1 | GET /users/1 HTTP/1.1x
GET /users/1 HTTP/11 | GET /users/1 X | GET /users/1 | GET | GET  /users/1 HTTP/1.1 | GET /users/1  HTTP/1.1
GET /users/1 HTTP/1.1\x20 | \x20GET /users/1 HTTP/1.1 | GET /users/1 x HTTP/1.1 | GET\t/users/1\tHTTP/1.1
GET /users/1\0 HTTP/1.1 | GET /users/1 HTTP/1.1\nX: 1 | GET /users/1 HTTP/1.1\r\r | GET /users/\x80 HTTP/1.1
""")

UNPLAIN_LINES = unescape(r"""
Connection: keep-alive, x | Connection: x | Connection: | Content-Length: 0
Transfer-Encoding: chunked\r\n\r\n0 | Transfer-Encoding: x | Expect: 100-continue | Proxy-Connection: keep-alive
If-None-Match: "1" | If-None-Match: "2" | If-None-Match: * | If-Match: "1" | Range: bytes=0-1 | TE: trailers | Keep-Alive: 5
If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT | Prefer: count=exact | X-Request-Id: not plain | X-Request-Id:
X-Request-Id: a\x20 | X-Request-Id: a\r\nX-Request-Id: b | X-Odd: \xe9 | X-Odd: \x7f | X-Odd: a\0b | X-Odd: \x01
X-Fold: a\r\n b | X-Space : a | X Space: a | : nameless | no colon | (x): a | X-Feed: a\nX-Other: b | X-Return: a\rb
Content-Length: 3\r\n\r\nabc | Content-Length: 3\r\nContent-Length: 4 | Content-Length: x
Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc
""")
UNPLAIN_LINES += [f"X-Request-Id: {'a' * 129}", f"X-Long: {'a' * 2048}"]

UNPLAIN_KEYS = unescape(r"""
X: no key | Authorization: | Authorization: Bearer | Authorization: Bearer\x20\x20 | Authorization: {} | Authorization: Basic {}
Authorization: Bearer\t{} | Authorization: Bearer {}x | Authorization: Bearer x | Authorization: Bearer, {} | Authorization: Bearer{}
Authorization: Bearer {0}\r\nAuthorization: Bearer {0} | Authorization: Basic x\r\nAuthorization: Bearer {}
Authorization: Bearer {}\r\nAuthorization: Basic x | Authorization: Bearer {} x
""")
