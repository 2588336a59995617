"""A backend that answers everything alike, and keeps what came as it came."""

import re
import socket
import threading
from contextlib import suppress

from tests.support.waiting import DEADLINE

CHUNKS = re.compile(rb"(?s)(?:[0-9a-fA-F]+\r\n.*?\r\n)*?0\r\n(?:[^\r\n]+\r\n)*\r\n")
"""A body in chunks, with trailers, that holds no line ends of its own."""


class Capture:
    """Listens while the block lasts; `requests` are what came whole, without those for /health/."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.requests: list[bytes] = []

    def __enter__(self) -> "Capture":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(DEADLINE)
        came = b""
        with connection, suppress(OSError):
            while data := connection.recv(65_536):
                came += data
                head, end, body = came.partition(b"\r\n\r\n")
                if end and (b"chunked" not in head.lower() or CHUNKS.fullmatch(body)):
                    self.requests += [] if b" /health/" in head else [came]
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    came = b""
