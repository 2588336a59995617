"""Batches as clients meet them, over raw sockets: what they read is fresh, and each has its own answer."""

import json
import logging
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from select import select
from typing import Any

import httpx
import pytest

from svc.app import WIDTH
from svc.config import Config
from tests.conftest import Service, make_key, with_settings
from tests.test_batch import EVERYTHING, FILL, holding

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


@pytest.fixture
def wires() -> Iterator[Callable[[Service, str, int], list[Wire]]]:
    """Makes connections that are closed at the end."""
    with ExitStack() as stack:

        def make(service: Service, token: str, number: int) -> list[Wire]:
            made = [Wire(service, token) for _ in range(number)]
            for wire in made:
                stack.callback(wire.socket.close)
            return made

        yield make


Wires = Callable[[Service, str, int], list[Wire]]
USERS = range(1, 21)


class Race:
    """Users whose name is the number of the last change, and what of it was acknowledged."""

    def __init__(self, checks: int) -> None:
        self.acknowledged = dict.fromkeys(USERS, 0)
        self.over = threading.Event()
        self.wanted = checks
        self.checks = 0
        self.changes = 0
        self.stale: list[object] = []

    def write(self, wires: list[Wire]) -> None:
        """Changes one user after another, a connection for each few."""
        for number in range(1, 1_000_000):
            for users in zip(*(iter(USERS),) * len(wires), strict=True):
                if self.over.is_set():
                    return
                for wire, user in zip(wires, users, strict=True):
                    wire.patch(f"/users/{user}", f'{{"display_name": "{number}"}}')
                for wire, user in zip(wires, users, strict=True):
                    status, data = wire.receive()
                    assert status == 200, data
                    self.acknowledged[user] = number
                    self.changes += 1

    def read(self, wires: list[Wire], path: str) -> None:
        """Reads users on all connections at once, and compares with what was acknowledged before."""
        dice = random.Random(len(wires))
        while self.checks < self.wanted and not self.over.is_set():
            asked = []
            for wire in wires:
                user = dice.choice(USERS)
                asked.append((user, self.acknowledged[user]))
                wire.get(path.format(user))
            for wire, (user, floor) in zip(wires, asked, strict=True):
                status, data = wire.receive()
                assert status == 200, data
                found = int(NAME.findall(data)[0])
                if found < floor:
                    self.stale.append((path, user, floor, found))
            self.checks += len(wires)


def test_a_read_that_begins_after_a_change_was_acknowledged_sees_it(
    config: Config, sql: Sql, wires: Wires, request: pytest.FixtureRequest
) -> None:
    """Two workers, reads by id and by email and without the short cut, changes in between."""
    sql(FILL, len(USERS))
    sql("update users set display_name = '0'")
    race, token = Race(100_000 if request.config.getoption("--full") else 10_000), make_key(config)
    with Service(config) as one, Service(config) as other, ThreadPoolExecutor(6) as threads:
        writer = threads.submit(race.write, wires(one, token, 10))
        readers = [
            threads.submit(race.read, wires(one, token, 32), "/users/{}"),
            threads.submit(race.read, wires(one, token, 24), "/users/{}"),
            threads.submit(race.read, wires(other, token, 16), "/users/{}"),
            threads.submit(race.read, wires(one, token, 4), "/users/{}?fields=display_name"),
            threads.submit(race.read, wires(one, token, 4), "/users?email={}@example.com"),
        ]
        started = time.monotonic()
        try:
            for each in readers:
                each.result()
        finally:
            race.over.set()
        writer.result()
    seconds = time.monotonic() - started
    print(f"{race.checks} checks, {race.changes} changes, {len(race.stale)} stale in {seconds:.1f} s")
    assert race.stale == []
    assert race.checks >= race.wanted
    assert race.changes > race.checks / 1000


def ask_all(wires: list[Wire]) -> None:
    """Has the first ask for user 1, and so on; the key is known when this is over."""
    for number, wire in enumerate(wires, 1):
        wire.get(f"/users/{number}")
    time.sleep(0.2)


def names(wires: list[Wire]) -> list[bytes]:
    return [NAME.findall(wire.receive()[1])[0] for wire in wires]


def test_who_hangs_up_takes_nothing_along(config: Config, sql: Sql, service: Service, wires: Wires) -> None:
    sql(FILL, 40)
    made = wires(service, make_key(config), 40)
    for _ in range(2):
        ask_all(made)
        assert names(made) == [b"%d" % number for number in range(1, 41)]
        with holding(config, EVERYTHING):
            ask_all(made)
            for number, wire in enumerate(made[::2]):
                wire.hang_up(rudely=number % 2 == 0)
            time.sleep(0.1)
        assert names(made[1::2]) == [b"%d" % number for number in range(2, 41, 2)]
        made[::2] = wires(service, make_key(config), 20)


def test_too_many_are_refused_at_once_and_may_come_again(config: Config, sql: Sql, wires: Wires) -> None:
    sql(FILL, 40)
    token = make_key(config)
    with Service(with_settings(config, queue_size=8)) as service:
        made = wires(service, token, 40)
        for wire in made:
            wire.get("/users/1")
            wire.receive()
        with holding(config, EVERYTHING):
            ask_all(made)
            refused = [wire for wire in made if wire.is_answered()]
            for status, data in (wire.receive() for wire in refused):
                assert status == 503
                assert b"\r\nretry-after: 1\r\n" in data.lower()
                assert b"urn:bareline:problem:overload" in data
        patient = {number: wire for number, wire in enumerate(made, 1) if wire not in refused}
        assert 8 <= len(patient) <= 8 + 2 * WIDTH
        assert names([*patient.values()]) == [b"%d" % number for number in patient]


def test_who_waits_too_long_is_told_and_an_error_of_many_is_logged_in_little(
    config: Config, sql: Sql, wires: Wires, capfd: pytest.CaptureFixture[str]
) -> None:
    sql(FILL, 40)
    token = make_key(config)
    with Service(with_settings(config, query_timeout=0.5, acquire_timeout=5)) as service:
        made = wires(service, token, 40)
        ask_all(made)
        names(made)
        with holding(config, EVERYTHING):
            ask_all(made)
            answers = [wire.receive() for wire in made]
        assert {status for status, _ in answers} == {503}
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    logging.getLogger().handlers.clear()  # they hold this test's stderr
    assert len(lines) == 40
    assert {line["error"] for line in lines} == {"TimeoutError"}
    assert max(len(line["frames"]) for line in lines) < 25


CHANGES: list[tuple[object, dict[str, str]]] = [
    ({"display_name": "Ünï"}, {}),
    ({"display_name": None, "is_active": False}, {"If-Match": '"2"'}),
    ({"is_active": True}, {"If-Match": '"2"'}),
    ({"is_active": True}, {"If-Match": '"1", "3"'}),
    ({"display_name": ""}, {}),
    ({"is_active": None}, {}),
    ({"email": "taken@example.com"}, {}),
    ({}, {"If-Match": '"4"'}),
    ({}, {"If-Match": '"1"'}),
    ({"display_name": "x", "profile": {"a": 1}}, {}),
]
READS: list[tuple[str, dict[str, str]]] = [
    ("", {}),
    ("", {"If-None-Match": '"5"'}),
    ("", {"If-None-Match": '"4"'}),
    ("?fields=email,profile", {}),
    ("00?fields=x", {}),
]


def test_without_batching_the_answers_are_the_same(config: Config, sql: Sql) -> None:
    """Users 1 to 8 live through the same with batches as users 9 to 16 without."""
    sql(FILL, 16)
    sql("update users set created_at = '2026-01-01', display_name = null where id = any(%s)", [*range(1, 17)])
    sql("insert into users (email, hashed_password) values ('taken@example.com', '')")
    token = make_key(config)

    def live(client: httpx.Client, user: int) -> list[object]:
        said = [client.patch(f"/users/{user}", json=body, headers=more) for body, more in CHANGES]
        said += [client.get(f"/users/{user}{query}", headers=more) for query, more in READS]
        said.append(client.get("/users", params={"email": f"{user}@example.com"}))
        return [(each.status_code, each.headers.get("etag"), redact(each.text, user)) for each in said]

    with (
        Service(config) as batched,
        Service(with_settings(config, batching=False)) as alone,
        batched.client(token) as one,
        alone.client(token) as other,
        ThreadPoolExecutor(8) as threads,
    ):
        with_batches = list(threads.map(live, [one] * 8, range(1, 9)))
        without = list(threads.map(live, [other] * 8, range(9, 17)))
        missing = [client.patch("/users/99", json={"is_active": True}).status_code for client in (one, other)]
    assert with_batches == without
    assert with_batches == with_batches[:1] * 8
    assert [status for status, *_ in with_batches[0]][:10] == [
        200,
        200,
        412,
        200,
        422,
        422,
        409,
        200,
        412,
        200,
    ]
    assert missing == [404, 404]


def redact(text: str, user: int) -> str:
    """An answer without what tells one user or request from another."""
    return re.sub(rf'"id":{user},|{user}@example.com|"request_id":"[^"]+"', "", text)
