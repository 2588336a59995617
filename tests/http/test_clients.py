"""What old, odd and proxying clients meet: HTTP/1.0, hosts, keep-alive, a service that stops."""

import http.client
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from svc import server
from svc.config import Config
from tests.support import Service, with_settings
from tests.support.raw import Ground, Wire, get, make, status_of
from tests.support.things import serve_things
from tests.support.waiting import wait_for


@pytest.fixture(params=[True, False], ids=["short cut", "no short cut"])
def service(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service of two hosts."""
    config = with_settings(ground.config, short_cut=request.param, allowed_hosts="api.example, LOCALHOST")
    with serve_things(config) as service:
        yield service


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example", 200),
        ("API.example:8000", 200),
        ("localhost", 200),
        ("other.example", 421),
        ("api.example.evil", 421),
    ],
)
def test_hosts_are_served_that_are_named(service: Service, ground: Ground, host: str, status: int) -> None:
    request = f"GET /things/1 HTTP/1.1\r\nHost: {host}\r\n{ground.bearer}\r\n\r\n".encode()
    warm = request.replace(host.encode(), b"localhost")
    with Wire(service) as wire:
        assert status_of(wire.ask(warm)) == status_of(wire.ask(warm)) == 200
        assert status_of(wire.ask(request)) == status


def test_an_upload_that_the_service_does_not_wait_for_is_told_so(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SHUTDOWN_TIMEOUT", 1)
    head = make(
        "POST /things HTTP/1.1",
        ground.bearer,
        "Content-Type: application/json",
        "Content-Length: 50",
        "X-Request-Id: mine",
    )
    with serve_things(ground.config) as running, Wire(running) as wire:
        wire.send(head + b'{"name": ')
        wait_for(lambda: any(each.cycle for each in running.server.server_state.connections))  # type: ignore[union-attr]
        running.server.should_exit = True
        answer = wire.read_all()
    assert status_of(answer) == 503
    assert b'"type":"urn:bareline:problem:stopping"' in answer
    assert b"nothing was done" in answer
    assert b"\r\nx-request-id: mine\r\n" in answer


def test_an_idle_connection_costs_a_pool_no_request(ground: Ground) -> None:
    """The service keeps connections for longer than a pool does, so it is never the first to close one.

    Where it is, a client may have begun to send: no server can take that back.
    """
    assert Config().keep_alive > (httpx.Limits().keepalive_expiry or 0)
    with serve_things(ground.config) as running:
        running.server.config.timeout_keep_alive = 1
        limits, headers = httpx.Limits(keepalive_expiry=0.5), dict([ground.bearer.split(": ")])
        with httpx.Client(base_url=running.url, limits=limits, headers=headers) as client:
            for pause in (0, 0.45, 0.5, 0.501, 0.55, 0.99, 1.0, 1.001, 1.1):
                time.sleep(pause)
                assert client.get("/things/1").status_code == 200


def test_many_clients_of_http_client_are_told_that_their_body_is_too_large(
    service: Service, ground: Ground
) -> None:
    """Python's own client sends all before it reads: a reset would take the answer out of its hands."""
    statuses = []

    def send() -> None:
        connection = http.client.HTTPConnection(*service.address, timeout=30)
        headers = {
            "Host": "localhost",
            "Content-Type": "application/json",
            **dict([ground.bearer.split(": ")]),
        }
        connection.request("POST", "/things", b"x" * 2_000_000, headers)
        statuses.append(connection.getresponse().status)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [413] * 4


def test_a_request_that_is_followed_by_the_end_is_answered(service: Service, ground: Ground) -> None:
    with Wire(service) as wire:
        wire.send(get("/things/1", ground.bearer).replace(b"Host: x", b"Host: localhost"))
        wire.half_close()
        assert status_of(wire.read_all()) == 200
