"""The short cut behaves as uvicorn does: timeouts, shutdown, logs, order, bounds, clients that misbehave."""

import json
import logging
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from select import select
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg
import pytest
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.http.answers import answer
from svc.http.fast_path import FastPath
from svc.http.middleware import ErrorHandler
from svc.http.operations import FastRoute, Operation
from svc.http.parsing import parse_id
from svc.http.resource import Resource
from svc.http.resource import Service as Parts
from tests.support import Service, make_key, with_settings
from tests.support.raw import (
    LAST,
    Ground,
    Taken,
    Wire,
    count_waiting,
    get,
    serve,
    status_of,
    statuses,
)
from tests.support.things import SCOPES, StoredThing, ThingQueries, Things
from tests.support.waiting import DEADLINE, wait_for


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


def open_wire(service: Service, ground: Ground) -> Wire:
    """A connection to a service that knows the key."""
    with Wire(service) as first:
        assert status_of(first.ask(get("/things/1", ground.bearer))) == 200
    return Wire(service)


def ids(answers: bytes) -> list[int]:
    """Of the things in answers, in their order."""
    return [int(number) for number in re.findall(rb'\r\n\r\n{"id":(\d+)', answers)]


def test_an_idle_connection_is_closed_in_time(ground: Ground, taken: Taken) -> None:
    """On a real clock; tests/test_timeouts.py has all the ways to be idle."""
    with serve(ground.config, timeout_keep_alive=0.5) as service, open_wire(service, ground) as wire:
        assert status_of(wire.ask(get("/things/1", ground.bearer))) == 200
        answered = time.monotonic()
        assert wire.read_all() == b""
        assert time.monotonic() - answered > 0.4
    assert taken.count == 1


@pytest.mark.parametrize("short_cut", [True, False])
def test_a_shutdown_answers_what_is_asked_and_closes_what_is_idle(
    ground: Ground, taken: Taken, short_cut: bool
) -> None:
    plain = get("/things/2", ground.bearer)
    config = with_settings(ground.config, short_cut=short_cut)
    with (
        serve(config) as service,
        open_wire(service, ground) as idle,
        Wire(service) as busy,
        Wire(service) as fresh,
    ):
        assert status_of(idle.ask(plain)) == 200
        with ground.locked() as wait:
            busy.send(plain)
            wait()
            service.server.should_exit = True
            assert idle.read_all() == fresh.read_all() == b""
        answer = busy.read_all()
    assert (status_of(answer), ids(answer)) == (200, [2])
    assert b"\r\nconnection: close\r\n\r\n" in answer
    assert taken.count == 2 * short_cut


def test_dates_are_sent_and_requests_counted(ground: Ground, taken: Taken) -> None:
    with serve(ground.config) as service, open_wire(service, ground) as wire:
        answers = [wire.ask(get(f"/things/{number}", ground.bearer)) for number in (1, 99, 3)]
    assert (service.server.server_state.total_requests, taken.count) == (1 + 3, 3)
    date = parsedate_to_datetime(answers[2].partition(b"\r\ndate: ")[2].partition(b"\r\n")[0].decode())
    assert abs(datetime.now(UTC) - date) < timedelta(seconds=10)


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The log's lines."""
    yield lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    logging.getLogger().handlers.clear()  # they hold this test's stderr


def test_both_ways_are_logged_alike(
    ground: Ground, taken: Taken, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    with (
        serve(with_settings(ground.config, log_requests=True)) as service,
        open_wire(service, ground) as wire,
    ):
        for line in ("X: 1", "TE: trailers"):
            for path in ("/things/2", "/things/99"):
                wire.ask(get(path, ground.bearer, line, "X-Request-Id: mine"))
        with ground.locked():
            for left, line in enumerate(("X: 1", "TE: trailers")):
                with Wire(service) as leaver:
                    leaver.send(get("/things/3", ground.bearer, line, "X-Request-Id: left"))
                    wait_for(lambda left=left: count_waiting(service) == left + 1)
            connections = service.server.server_state.connections
            wait_for(lambda: sum(each.flow.ended for each in connections) == 2)  # type: ignore[union-attr]
    logged = [line for line in lines() if line.get("request_id") in ("mine", "left")]
    milliseconds = [line.pop("milliseconds") for line in logged]
    assert all(isinstance(value, float) and 0 < value < DEADLINE * 1000 for value in milliseconds)
    assert [line["status"] for line in logged] == [200, 404, 200, 404, 200, 200]
    assert all(line.pop("time") for line in logged)
    assert logged[:2] == logged[2:4]
    assert logged[4] == logged[5]
    assert taken.count == 3


def test_refusals_are_problems(ground: Ground) -> None:
    bad, poor = "Authorization: Bearer x", f"Authorization: Bearer {ground.poor_key}"
    with serve(ground.config) as service, open_wire(service, ground) as wire:
        for status, line in ((401, "X: 1"), (401, bad), (403, poor)):
            for _ in range(2):
                answer = wire.ask(get("/things/1", line))
                assert status_of(answer) == json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == status
                assert b"\r\nwww-authenticate: Bearer " in answer


def test_a_revoked_key_is_refused_in_five_seconds(
    ground: Ground, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, now = make_key(ground.config, *SCOPES, name="revoked"), 1000.0
    plain = get("/things/1", f"Authorization: Bearer {key}")
    monkeypatch.setattr("svc.accounts.keys.time", SimpleNamespace(monotonic=lambda: now))
    with serve(ground.config) as service, Wire(service) as wire, psycopg.connect(ground.url) as connection:
        assert [status_of(wire.ask(plain)) for _ in range(3)] == [200] * 3
        connection.execute("update api_keys set revoked_at = now() where name = 'revoked'")
        connection.commit()
        now += 1
        assert (status_of(wire.ask(plain)), taken.count) == (200, 3)  # it is trusted for a while
        now += 4
        assert (status_of(wire.ask(plain)), taken.count) == (401, 3)


def test_requests_behind_one_that_waits_are_answered_in_order(ground: Ground) -> None:
    one, two, three, four = (get(f"/things/{number}", ground.bearer) for number in (1, 2, 3, 4))
    change = get("/things/5", ground.bearer, "Content-Type: application/json", "Content-Length: 2") + b"{}"
    with serve(ground.config) as service, open_wire(service, ground) as wire:
        with ground.locked() as wait:
            wire.send(one)
            wait()
            wire.send(
                two,
                three + change.replace(b"GET", b"PATCH") + four[:9],
                four[9:],
                get("/health/live"),
            )
            (held,) = (each for each in service.server.server_state.connections if each._pending)  # type: ignore[union-attr]
            wait_for(lambda: held.flow.held)  # type: ignore[union-attr]
            assert not select([wire.socket], [], [], 0.05)[0]
        wire.send(b"what is no HTTP\r\n\r\n")
        answers = wire.read_all()
    assert ids(answers) == [1, 2, 3, 5, 4]
    assert statuses(answers) == [200] * 6 + [400]


def flood(wire: Wire, request: bytes) -> int:
    """Sends and never reads, until it has to wait: how many bytes went out."""
    sent = 0
    with suppress(TimeoutError):
        while sent < 2**30:
            sent += wire.socket.send(request * 5000)
    return sent


def test_a_flood_of_requests_costs_little_memory(ground: Ground) -> None:
    """What clients send that never read is held in small part, and then they have to wait."""
    plain = get("/things/1", ground.bearer)
    with serve(ground.config) as service, open_wire(service, ground) as quiet:
        before = psutil.Process().memory_info().rss
        wires = [Wire(service, timeout=0.3) for _ in range(3)]
        assert all(
            flood(wire, plain if number % 2 else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") < 2**25
            for number, wire in enumerate(wires)
        )
        assert psutil.Process().memory_info().rss - before < 25 * 2**20
        assert status_of(quiet.ask(plain)) == 200
        for wire in wires:
            wire.socket.close()


def test_all_of_a_flood_is_answered_to_who_reads(ground: Ground) -> None:
    with serve(ground.config) as service, Wire(service) as wire:
        wire.send(*[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000] * 3, LAST, pause=0)
        assert statuses(wire.read_all()) == [404] * 3000 + [200]


def test_who_vanishes_harms_nobody(ground: Ground, lines: Callable[[], list[dict[str, Any]]]) -> None:
    plain = get("/things/1", ground.bearer)
    with serve(ground.config) as service, open_wire(service, ground) as other:
        with ground.locked() as wait:
            wires = [Wire(service) for _ in range(40)]
            for number, wire in enumerate(wires):
                wire.send(
                    [
                        plain,
                        plain + plain,
                        plain[:-3],
                        get("/nope"),
                        plain + b"x\0",
                        get("/things", ground.bearer),
                    ][number % 6]
                )
            other.send(plain)
            wait()
            for wire in wires:
                wire.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )  # a reset
                wire.socket.close()
        assert ids(other.read() + other.ask(get("/things/2", ground.bearer))) == [1, 2]
    assert {line["message"] for line in lines()} <= {"Invalid HTTP request received."}


def test_short_cuts_are_off_where_uvicorn_counts_requests_to_refuse_some(
    ground: Ground, taken: Taken
) -> None:
    with serve(ground.config, limit_concurrency=50) as service, open_wire(service, ground) as wire:
        assert status_of(wire.ask(get("/things/1", ground.bearer))) == 200
    assert taken.count == 0


def test_what_is_known_of_heads_is_bounded(ground: Ground) -> None:
    read = Operation(
        "GET",
        "/things/{id}",
        split,
        {200: None},
        fast=FastRoute(parse_id, lambda *_: None, lambda *_: answer(0)),
    )
    cuts = FastPath([read], None, ErrorHandler({}, log_values=False), log_requests=False)
    for number in range(3000):
        for lines in ([f"X: {number}"], [f"X: {number}", "X-Request-Id: a"], [f"X: {number}", "A" * 2048]):
            assert (cuts.match(get("/things/1", *lines)) is None) == ("A" * 2048 in lines)
        assert 0 < len(cuts._heads) <= FastPath.MOST_HEADS


class Thing(Struct, frozen=True):
    """Another resource."""

    thing: int


async def split(request: Request) -> Response:
    """Never called."""
    raise NotImplementedError


def answer_thing(row: StoredThing | None) -> Response:
    """Both ways."""
    return answer(Thing(row.id if row else 0))


def build_things(parts: Parts) -> Resource:
    """A cold and a hot operation."""
    things = Things(parts.bind(ThingQueries), parts.limits)

    async def get_thing(request: Request) -> Response:
        return answer_thing(await things.by_id.get(int(request.path_params["id"])))

    fast = FastRoute(parse_id, things.by_id.submit, lambda _, row: answer_thing(row))
    cold = Operation("GET", "/a/cold/things/{id}", get_thing, {200: Thing})
    return Resource(operations=[cold, Operation("GET", "/a/things/{id}", get_thing, {200: Thing}, fast=fast)])


def test_one_word_makes_another_resource_hot(ground: Ground, taken: Taken) -> None:
    with serve(ground.config, build_things) as service, Wire(service) as wire:
        for path, count in (("/a/cold/things", 0), ("/a/things", 1)):
            assert wire.ask(get(f"{path}/7")).endswith(b'\r\n\r\n{"thing":7}')
            assert taken.count == count
