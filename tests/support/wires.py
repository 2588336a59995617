"""Keep-alive connections that say no more than they must."""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from select import select

from tests.support import Service
from tests.support.waiting import DEADLINE

LENGTH = re.compile(rb"content-length: (\d+)\r\n")


class Wire:
    """A connection that asks first and receives later."""

    def __init__(self, service: Service, token: str) -> None:
        self.socket = socket.create_connection(service.address)
        self.socket.settimeout(DEADLINE)
        self._tail = f" HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"

    def hang_up(self, *, rudely: bool) -> None:
        """Close, with a FIN or with a RST."""
        if rudely:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def get(self, path: str) -> None:
        """Ask, and do not wait for the answer."""
        self.socket.sendall(f"GET {path}{self._tail}\r\n".encode())

    def patch(self, path: str, body: str) -> None:
        """Send a change, and do not wait for the answer."""
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.socket.sendall(f"PATCH {path}{self._tail}{head}{body}".encode())

    def is_answered(self) -> bool:
        """Return whether there is something to be received."""
        return bool(select([self.socket], [], [], 0)[0])

    def receive(self) -> tuple[int, bytes]:
        """Return the status and the whole answer."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + int(LENGTH.findall(data)[0]):
            received = self.socket.recv(65536)
            assert received, data
            data += received
        return int(data[9:12]), data


@contextmanager
def wired(service: Service, token: str, number: int) -> Iterator[list[Wire]]:
    """Give so many connections."""
    wires = [Wire(service, token) for _ in range(number)]
    try:
        yield wires
    finally:
        for wire in wires:
            wire.socket.close()
