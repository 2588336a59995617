"""Who is asked by whom: the client behind a proxy, and pages of other origins."""

from collections.abc import Iterator

import httpx
import pytest

from svc.config import Networks
from svc.http.headers import find_client
from tests.support import with_settings
from tests.support.logs import forget_handlers, logged
from tests.support.raw import Ground, Taken, Wire, get, normalise
from tests.support.things import serve_things

APP = "https://app.example"


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),  # the first one was made up
        ("10.0.0.1", ["203.0.113.7, 10.0.0.2", "10.9.9.9"], "203.0.113.7"),  # through three proxies
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),  # a client in the proxies' network
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7, <script>"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["2001:DB8:0::7"], "2001:db8::7"),
        ("::1", ["203.0.113.7"], "203.0.113.7"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("203.0.113.9", ["203.0.113.7"], "203.0.113.9"),  # nobody who is trusted
        (None, ["203.0.113.7"], None),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(
    peer: str | None, lines: list[str], client: str | None
) -> None:
    proxies = Networks.parse("10.0.0.0/8, ::1")
    found = find_client(peer and (peer, 4711), [line.encode() for line in lines], proxies)
    assert (found and found[0]) == client


def test_hops_without_end_are_not_looked_at() -> None:
    line = b"203.0.113.7" + b",10.0.0.1" * 7000
    assert find_client(("10.0.0.1", 4711), [line], Networks.parse("10.0.0.0/8")) == ("10.0.0.1", 0)


@pytest.mark.parametrize(("proxies", "client"), [("127.0.0.1", "203.0.113.7"), ("", "127.0.0.1")])
def test_the_log_names_the_client_behind_a_proxy_that_is_trusted(
    ground: Ground, taken: Taken, capfd: pytest.CaptureFixture[str], proxies: str, client: str
) -> None:
    trusted = Networks.parse(proxies)
    service = serve_things(with_settings(ground.config, log_requests=True, trusted_proxies=trusted))
    with logged(service, ground.key, capfd) as (asks, log):
        for hop in ("203.0.113.7", "198.51.100.1, 203.0.113.7"):
            head = {"X-Forwarded-For": hop}
            assert asks.get("/things/1", headers=head).status_code == 200
            assert asks.get("/things/2", headers=head).status_code == 200
            assert asks.get("/things", headers=head | {"Authorization": "Bearer x"}).status_code == 401
    assert {line["client"] for line in log.requests} == {client}
    assert [line["client"] for line in log.lines if line["message"] == "refused"] == [client]
    assert taken.count == 3  # the short cut looks past who it is
    forget_handlers()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


@pytest.fixture
def client(ground: Ground) -> Iterator[httpx.Client]:
    config = with_settings(ground.config, allowed_origins=(APP, "http://localhost:3000"))
    with serve_things(config) as service, service.client(ground.key) as client:
        yield client


def test_a_page_of_a_named_origin_may_read_answers_and_refusals(client: httpx.Client, taken: Taken) -> None:
    for path, status in (
        ("/things/1", 200),
        ("/things/1", 200),
        ("/things/99", 404),
        ("/things?limit=0", 422),
    ):
        answer = client.get(path, headers={"Origin": APP})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, APP)
        assert "Origin" in answer.headers["Vary"]
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
    assert taken.count == 0


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.evil", "http://app.example"]
)
def test_a_page_of_another_origin_is_answered_without_leave_to_read(
    client: httpx.Client, origin: str
) -> None:
    answer = client.get("/things/1", headers={"Origin": origin})
    assert (answer.status_code, "Access-Control-Allow-Origin" in answer.headers) == (200, False)
    asked = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
    answer = client.options("/things/1", headers=asked)
    assert (answer.status_code, "Access-Control-Allow-Origin" in answer.headers) == (400, False)


def test_a_browser_is_told_what_a_page_may_send(client: httpx.Client) -> None:
    asked = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,content-type,if-match",
    }
    del client.headers["Authorization"]
    answer = client.options("/things/1", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    assert "Idempotency-Key" in answer.headers["Access-Control-Allow-Headers"]


def test_who_sends_no_origin_is_answered_as_ever_on_both_ways(ground: Ground, taken: Taken) -> None:
    asked = [
        get(path, ground.bearer) for path in ("/things/1", "/things/1", "/things/99", "/things", "/things/2")
    ]
    asked[-1] = asked[-1].replace(b"Host", b"Connection: close\r\nHost")
    answers = []
    for short_cut in (True, False):
        config = with_settings(ground.config, allowed_origins=(APP,), short_cut=short_cut)
        with serve_things(config) as service, Wire(service) as wire:
            answers.append([normalise(wire.ask(each)) for each in asked])
    assert answers[0] == answers[1]
    assert all(b"\r\nvary: Origin\r\n" in answer for answer in answers[0])
    assert taken.count == 3


def test_without_the_setting_no_page_of_another_origin_may_read(ground: Ground) -> None:
    with serve_things(ground.config) as service, service.client(ground.key) as client:
        answer = client.get("/things/1", headers={"Origin": APP})
        assert not [name for name in answer.headers if name.startswith("access-control")]
