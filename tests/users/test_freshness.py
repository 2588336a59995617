"""What a client reads is never older than what was acknowledged before it asked, whatever batch it came in."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from svc.config import Config
from tests.support import Service, make_key, with_settings
from tests.support.gates import SlowGate
from tests.support.users import FILL, NAME
from tests.support.wires import Wire, wired

Sql = Callable[..., list[tuple[Any, ...]]]


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
