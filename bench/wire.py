"""HTTP/1.1 as bytes: just enough to send prepared requests and to take their answers apart."""

import socket
from typing import NamedTuple


class WireError(Exception):
    """The answer is no HTTP, or ended early."""


class Answer(NamedTuple):
    """An answer: `size` is the bytes of head and body as they were on the wire."""

    status: int
    body: bytes
    size: int


def parse_answer(data: bytes) -> Answer | None:
    """Return the answer that `data` begins with, None while it is not whole. Raises WireError."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    if data[:7] != b"HTTP/1.":
        raise WireError(f"no HTTP: {data[:40]!r}")
    status, head = int(data[9:12]), data[: end + 2].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        whole = end + 4 + int(head[at + 17 : head.index(b"\r\n", at + 2)])
        return Answer(status, data[end + 4 : whole], whole) if len(data) >= whole else None
    if b"\r\ntransfer-encoding: chunked" in head:
        return parse_chunked(data, end + 4, status)
    if status in (204, 304):
        return Answer(status, b"", end + 4)
    raise WireError("neither Content-Length nor chunks")


def parse_chunked(data: bytes, at: int, status: int) -> Answer | None:
    """Return an answer in chunks whose body begins `at`, None while it is not whole."""
    parts: list[bytes] = []
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].partition(b";")[0], 16)
        at = line + 2 + size + 2
        if len(data) < at:
            return None
        if not size:
            return Answer(status, b"".join(parts), at)
        parts.append(data[line + 2 : at - 2])
    return None


class Connection:
    """One keep-alive connection to a server on this machine, one request at a time."""

    def __init__(self, port: int, timeout: float = 30) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, raw: bytes) -> Answer:
        """Send a request and return its answer. Raises WireError, OSError."""
        self._socket.sendall(raw)
        data = b""
        while (answer := parse_answer(data)) is None:
            received = self._socket.recv(1 << 18)
            if not received:
                raise WireError("the connection was closed")
            data += received
        return answer

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
