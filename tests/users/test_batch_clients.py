"""Batches as clients meet them, over raw sockets: each has its own answer, however its neighbours fare."""

import json
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from svc.config import Config
from svc.postgres.queueing import CONCURRENCY
from tests.support import Service, make_key, with_settings
from tests.support.locks import holding
from tests.support.raw import count_waiting
from tests.support.users import EVERYTHING, FILL, NAME
from tests.support.waiting import wait_for
from tests.support.wires import Wire, wired

Sql = Callable[..., list[tuple[Any, ...]]]


def ask_all(service: Service, wires: list[Wire]) -> None:
    """Has the first ask for user 1, and so on, and waits until all of them wait or are answered."""
    for number, wire in enumerate(wires, 1):
        wire.get(f"/users/{number}")
    wait_for(lambda: count_waiting(service) + sum(wire.is_answered() for wire in wires) >= len(wires))


def names(wires: list[Wire]) -> list[bytes]:
    return [NAME.findall(wire.receive()[1])[0] for wire in wires]


def test_who_hangs_up_takes_nothing_along(config: Config, sql: Sql, service: Service) -> None:
    sql(FILL, 40)
    token = make_key(config)
    for _ in range(2):
        with wired(service, token, 40) as wires:
            ask_all(service, wires)
            assert names(wires) == [b"%d" % number for number in range(1, 41)]
            with holding(config, EVERYTHING):
                ask_all(service, wires)
                for number, wire in enumerate(wires[::2]):
                    wire.hang_up(rudely=number % 2 == 0)
                wait_for(lambda: len(service.server.server_state.connections) <= 30)  # others half-closed
            assert names(wires[1::2]) == [b"%d" % number for number in range(2, 41, 2)]


def test_too_many_are_refused_at_once_and_the_others_served(config: Config, sql: Sql) -> None:
    sql(FILL, 40)
    token = make_key(config)
    with Service(with_settings(config, queue_size=8)) as service, wired(service, token, 40) as wires:
        for wire in wires:
            wire.get("/users/1")
            wire.receive()
        with holding(config, EVERYTHING):
            ask_all(service, wires)
            refused = [wire for wire in wires if wire.is_answered()]
            for status, data in (wire.receive() for wire in refused):
                assert status == 503
                assert b"\r\nretry-after: 1\r\n" in data.lower()
                assert b"urn:bareline:problem:overload" in data
        patient = {number: wire for number, wire in enumerate(wires, 1) if wire not in refused}
        assert 8 <= len(patient) <= 8 + 8 * CONCURRENCY  # those of one turn leave together
        assert names([*patient.values()]) == [b"%d" % number for number in patient]


def test_an_error_that_many_share_is_logged_in_little_for_each(
    config: Config, sql: Sql, capfd: pytest.CaptureFixture[str]
) -> None:
    sql(FILL, 40)
    token, config = make_key(config), with_settings(config, query_timeout=1)
    with Service(config) as service, wired(service, token, 40) as wires:
        ask_all(service, wires)
        names(wires)
        with holding(config, EVERYTHING):
            ask_all(service, wires)
            assert {wire.receive()[0] for wire in wires} == {503}
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
        204,
        412,
        200,
    ]
    assert missing == [404, 404]


def redact(text: str, user: int) -> str:
    """An answer without what tells one user or request from another."""
    return re.sub(rf'"id":{user},|{user}@example.com|"request_id":"[^"]+"', "", text)
