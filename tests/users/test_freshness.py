"""What a client reads is never older than what was acknowledged before it asked, whatever batch it came in."""

import asyncio
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from select import select
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from svc.config import Config
from tests.health.test_health import Gate, pump
from tests.postgres.test_batching import FILL
from tests.support import Service, make_key, with_settings

Sql = Callable[..., list[tuple[Any, ...]]]

LENGTH = re.compile(rb"content-length: (\d+)\r\n")
NAME = re.compile(rb'"display_name":"(\d+)"')


class Wire:
    """A keep-alive connection that says no more than it must."""

    def __init__(self, service: Service, token: str) -> None:
        self.socket = socket.create_connection(service.address)
        self.socket.settimeout(30)
        self._tail = f" HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"

    def hang_up(self, *, rudely: bool) -> None:
        """Closes, with a FIN or with a RST."""
        if rudely:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def get(self, path: str) -> None:
        """Asks, and does not wait for the answer."""
        self.socket.sendall(f"GET {path}{self._tail}\r\n".encode())

    def patch(self, path: str, body: str) -> None:
        """The same."""
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.socket.sendall(f"PATCH {path}{self._tail}{head}{body}".encode())

    def is_answered(self) -> bool:
        """Whether there is something to be received."""
        return bool(select([self.socket], [], [], 0)[0])

    def receive(self) -> tuple[int, bytes]:
        """The status and the whole answer."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + int(LENGTH.findall(data)[0]):
            received = self.socket.recv(65536)
            assert received, data
            data += received
        return int(data[9:12]), data


@contextmanager
def wired(service: Service, token: str, number: int) -> Iterator[list[Wire]]:
    """So many connections."""
    wires = [Wire(service, token) for _ in range(number)]
    try:
        yield wires
    finally:
        for wire in wires:
            wire.socket.close()


USERS = range(1, 5)


class Race:
    """Users whose name is the number of the last change, and what of it was acknowledged."""

    def __init__(self, checks: int) -> None:
        self.acknowledged = dict.fromkeys(USERS, 0)
        self.over = False
        self.wanted = checks
        self.checks = 0
        self.stale: list[object] = []

    def write(self, wires: list[Wire], users: list[int]) -> None:
        """Changes users, and reads each as soon as that was acknowledged."""
        number = 0
        while not self.over:
            number += 1
            for user in users:
                wires[0].patch(f"/users/{user}", f'{{"display_name": "{number}"}}')
                status, data = wires[0].receive()
                assert status == 200, data
                self.acknowledged[user] = number
                self.check(wires, "/users/{}", [user] * len(wires))

    def read(self, wires: list[Wire], path: str) -> None:
        """Reads any users."""
        dice = random.Random(len(wires))
        while not self.over:
            self.check(wires, path, dice.choices(USERS, k=len(wires)))

    def check(self, wires: list[Wire], path: str, users: list[int]) -> None:
        """Asks on all connections at once, and compares with what was acknowledged before."""
        floors = []
        for wire, user in zip(wires, users, strict=True):
            floors.append(self.acknowledged[user])
            wire.get(path.format(user))
        for wire, user, floor in zip(wires, users, floors, strict=True):
            status, data = wire.receive()
            assert status == 200, data
            if int(NAME.findall(data)[0]) < floor:
                self.stale.append((path, user, floor, data))
        self.checks += len(wires)
        self.over = self.over or self.checks >= self.wanted


class SlowGate(Gate):
    """One through which answers come late, some later than others: many a batch is overtaken by a change."""

    def thaw(self, last: int = 0) -> None:
        requests, answers = self._pairs[-2:]
        self._pumps += [asyncio.create_task(pump(*requests)), asyncio.create_task(pump_late(*answers))]


async def pump_late(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Passes bytes on after a while."""
    dice = random.Random(1)
    with suppress(ConnectionError):
        while data := await source.read(65536):
            await asyncio.sleep(dice.choice([0, 0, 0.004, 0.008]))
            target.write(data)
    target.close()


def test_a_read_that_begins_after_a_change_was_acknowledged_sees_it(
    config: Config, sql: Sql, request: pytest.FixtureRequest
) -> None:
    """Two workers, reads by id and by email and without the short cut, changes in between."""
    sql(FILL, len(USERS))
    sql("update users set display_name = '0'")
    race, token = Race(100_000 if request.config.getoption("--full") else 10_000), make_key(config)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(SlowGate(config.database_url)) as url,
        Service(with_settings(config, database_url=url)) as one,
        Service(with_settings(config, database_url=url)) as other,
        wired(one, token, 72) as wires,
        wired(other, token, 16) as others,
        ThreadPoolExecutor(6) as threads,
    ):
        started = time.monotonic()
        work = [
            threads.submit(race.write, wires[:8], [1, 2]),
            threads.submit(race.write, wires[8:16], [3, 4]),
            threads.submit(race.read, wires[16:64], "/users/{}"),
            threads.submit(race.read, others, "/users/{}"),
            threads.submit(race.read, wires[64:68], "/users/{}?fields=display_name"),
            threads.submit(race.read, wires[68:], "/users?email={}@example.com"),
        ]
        for each in as_completed(work):
            race.over = True
            each.result()
        seconds = time.monotonic() - started
    changes = sum(race.acknowledged.values())
    print(f"{race.checks} checks, {changes} changes, {len(race.stale)} stale in {seconds:.1f} s")
    assert race.stale == []
    assert race.checks >= race.wanted
    assert changes > race.checks / 1000
