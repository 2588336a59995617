"""Exports and their clients: several, slow ones, ones that leave; and what they cost."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest

from svc.config import Config
from svc.http import protocol as guard
from tests.support import Service, make_key, problem, with_settings
from tests.support.exports import FILL, PATH, Sql, find_exports
from tests.support.waiting import wait_for


def test_few_exports_run_at_once(service: Service, client: httpx.Client, sql: Sql) -> None:
    """A quarter of four connections is one."""
    sql(FILL, 120_000)
    with connect(service) as first:
        first.recv(1)
        refused = client.get(PATH)
        assert problem(refused, 503)["type"] == "urn:bareline:problem:overload"
        assert refused.headers["retry-after"] == "1"
        client.get("/users?limit=1").raise_for_status()
    wait_for(lambda: client.head(PATH).status_code == 200)  # the first one's client has hung up


def connect(service: Service, room: int = 8192, key: str | None = None) -> socket.socket:
    """A client that asks for an export and has little room for it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    client.connect(service.address)
    key = key or make_key(service.config)
    client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    return client


def drain(client: socket.socket) -> bytes:
    """All that comes before the connection ends, however it does."""
    found = b""
    with suppress(ConnectionResetError):
        while part := client.recv(65_536):
            found += part
    return found


def test_a_client_that_takes_nothing_is_cut_off(
    service: Service, client: httpx.Client, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "WRITE_TIMEOUT", 0.5)
    sql(FILL, 100_000)
    with connect(service) as idle:
        idle.recv(1)
        wait_for(lambda: client.head(PATH).status_code == 200)  # the only place is free
        assert not find_exports(sql)
        assert b'{"id":100000,' not in drain(idle)


def test_a_slow_client_is_not_cut_off_while_it_takes_some(service: Service, sql: Sql) -> None:
    """Each time that it took what waited, it has its time again."""
    sql(FILL, 100_000)
    connections = service.server.server_state.connections
    with connect(service, room=2**18) as slow:
        wait_for(lambda: any(connection.flow.write_paused for connection in connections))  # type: ignore[union-attr]
        (connection,) = (each for each in connections if each.flow.write_paused)  # type: ignore[union-attr]
        timer, taken = connection._write_timer, b""  # type: ignore[union-attr]
        while not timer.cancelled():
            taken += slow.recv(65_536)
        while not taken.endswith(b"\r\n0\r\n\r\n"):
            taken += slow.recv(65_536)
        assert b'{"id":100000,' in taken


def test_a_client_that_hangs_up_ends_its_export(
    config: Config, sql: Sql, capfd: pytest.CaptureFixture[str]
) -> None:
    """It does not run on for nobody: the log has 499 for it, at once."""
    sql(FILL, 100_000)
    config = with_settings(config, log_requests=True)
    with Service(config) as service, service.client(make_key(config)) as client:
        with connect(service) as gone:
            gone.recv(1000)
            assert client.head(PATH).status_code == 503
        wait_for(lambda: client.head(PATH).status_code == 200)
    logged = [json.loads(text) for text in capfd.readouterr().err.splitlines()]
    assert [entry["status"] for entry in logged if entry["method"] == "GET"] == [499]


def read_all(client: httpx.Client) -> Iterator[int]:
    """Sizes of the parts."""
    with client.stream("GET", PATH) as answer:
        for part in answer.iter_raw():
            yield len(part)


def test_memory_stays_flat(client: httpx.Client, sql: Sql) -> None:
    """200,000 users are 26 MB; service and client are this process. The first run warms both up."""
    sql(FILL, 20_000)
    process = psutil.Process()
    sum(read_all(client))
    sql(FILL.replace("'user'", "'other'"), 200_000)
    before, most, size = process.memory_info().rss, 0, 0
    for number, part in enumerate(read_all(client)):
        size += part
        if number % 50 == 0:
            most = max(most, process.memory_info().rss)
    assert size > 25_000_000
    assert most - before < 8_000_000


def test_others_are_answered_while_an_export_runs(service: Service, client: httpx.Client, sql: Sql) -> None:
    sql(FILL, 100_000)
    worst = 0.0
    reader = threading.Thread(target=lambda: sum(read_all(client)))
    with service.client(client.headers["authorization"].removeprefix("Bearer ")) as other:
        other.get("/users/1").raise_for_status()
        reader.start()
        while reader.is_alive():
            started = time.process_time()  # whatever else this machine does
            other.get("/users/1").raise_for_status()
            worst = max(worst, time.process_time() - started)
    assert 0 < worst < 0.5


def test_an_export_has_an_end(config: Config, sql: Sql) -> None:
    sql(FILL, 100_000)
    config = with_settings(config, transfer_timeout=0.5, pool_size=8)
    key = make_key(config)
    with Service(config) as service, service.client(key) as client, connect(service, key=key) as slow:
        slow.recv(1)
        assert client.head(PATH).status_code == 503
        wait_for(lambda: client.head(PATH).status_code == 200)
        assert b'{"id":100000,' not in drain(slow)


def test_one_client_has_half_of_the_places(config: Config, sql: Sql) -> None:
    sql(FILL, 100_000)
    config = with_settings(config, pool_size=16)  # four exports at a time
    with Service(config) as service:
        key, other = make_key(config), make_key(config)
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(connect(service, key=key)).recv(1)
            with service.client(key) as first, service.client(other) as second:
                assert problem(first.get(PATH), 503)["type"] == "urn:bareline:problem:overload"
                assert second.head(PATH).status_code == 200
        with service.client(key) as first:
            wait_for(lambda: first.head(PATH).status_code == 200)
