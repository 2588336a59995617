"""The short cut gives the answers of the long way, byte for byte, and only plain requests take it."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from svc.config import DatabaseUrl
from tests.conftest import Service, with_settings
from tests.raw import LAST, Ground, Taken, Wire, get, make_ground, normalise, serve, status_of


@pytest.fixture(scope="module")
def ground(server_url: DatabaseUrl, admin: Callable[[str], None], template: str) -> Iterator[Ground]:
    with make_ground(server_url, admin, template) as ground:
        yield ground


class Both:
    """Two services on one database, with the short cut and without."""

    def __init__(self, ground: Ground, hot: Service, stock: Service, taken: Taken) -> None:
        self.ground = ground
        self.hot = hot
        self.stock = stock
        self.taken = taken

    def warm(self) -> None:
        """Has both know the keys: a key's first request goes the long way."""
        for service, key in itertools.product(
            (self.hot, self.stock), (self.ground.key, self.ground.poor_key)
        ):
            with Wire(service) as wire:
                wire.ask(get("/users/1", f"Authorization: Bearer {key}"))

    def compare(self, data: bytes) -> tuple[bytes, int]:
        """What both answer to one request, and how many took the short cut; the next request is answered, too."""
        self.warm()
        before = self.taken.count
        answers = []
        for service in (self.stock, self.hot):
            with Wire(service) as wire:
                wire.send(data)
                answer = wire.read(to_head=data.startswith(b"HEAD"))
                count = self.taken.count - before
                wire.send(LAST)
                answers.append(normalise(answer + wire.read_all()))
        assert answers[0] == answers[1]
        return answer, count


@pytest.fixture(scope="module")
def both(ground: Ground) -> Iterator[Both]:
    with (
        pytest.MonkeyPatch.context() as patch,
        serve(with_settings(ground.config, short_cut=True)) as hot,
        serve(with_settings(ground.config, short_cut=False)) as stock,
    ):
        # Ids of one length, so that all answers with one have the same length, too.
        patch.setattr("svc.headers.COUNTER", itertools.count(1 << 24))
        yield Both(ground, hot, stock, Taken(patch))


CLIENTS = {
    "curl": ["User-Agent: curl/8.5.0", "Accept: */*"],
    "httpx": [
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        "Connection: keep-alive",
        "User-Agent: python-httpx/0.28.1",
    ],
    "fetch": [
        "Connection: keep-alive",
        'sec-ch-ua: "Chromium";v="130", "Not?A_Brand";v="99"',
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0",
        "Accept: */*",
        "Origin: http://localhost:3000",
        "Sec-Fetch-Mode: cors",
        "Referer: http://localhost:3000/",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-GB,en;q=0.9",
        "Cookie: a=b; c=d",
    ],
    "go": ["User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"],
    "none": [],
}
NAVIGATION = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["X-Request-Id: a.b:c/d+e=f-1_2"],
        ["x-request-id:no-space"],
        ["CONNECTION:\tKeep-Alive"],
        ["Host: twice"],
    ],
)
def test_what_clients_send_takes_the_short_cut(both: Both, client: str, lines: list[str]) -> None:
    answer, count = both.compare(get("/users/2", both.ground.bearer, *CLIENTS[client], *lines))
    assert (status_of(answer), count) == (200, 1)
    if lines and lines[0].lower().startswith("x-request-id"):
        assert f"\r\nx-request-id: {lines[0].partition(':')[2].strip()}\r\n".encode() in answer


def test_httpx_takes_the_short_cut(both: Both) -> None:
    both.warm()
    before = both.taken.count
    with both.hot.client(both.ground.key) as client:
        assert [client.get(f"/users/{number}").json()["id"] for number in range(1, 10)] == list(range(1, 10))
    assert both.taken.count - before == 9


def test_what_is_not_there_takes_the_short_cut(both: Both) -> None:
    for path in ("/users/77", f"/users/{2**63 - 1}"):
        answer, count = both.compare(get(path, both.ground.bearer))
        assert (status_of(answer), count) == (404, 1)
        assert b"\r\ncontent-type: application/problem+json\r\n" in answer


def test_of_schemes_the_case_is_free(both: Both) -> None:
    for line in ("authorization:bEARER  {}", "Authorization:\tBearer {} \t", "AUTHORIZATION: BEARER {}"):
        answer, count = both.compare(get("/users/2", line.format(both.ground.key)))
        assert (status_of(answer), count) == (200, 1)


UNPLAIN_PATHS = """/users/0 /users/01 /users/-1 /users/+1 /users/1.0 /users/1a /users/1/ //users/1 /USERS/1 /users/1;x
/users/ / /users/1_0 /users/9223372036854775808 /users/99999999999999999999 /users/%31 /%75sers/1 /users/%D9%A3
/users/1%20 /users/1%0A /users/1? /users/1?fields=id /users/1?x=y /users/1#x /users/\u00a0 /users/\u0663 /users
/health/live /health/1 /nope/1 users/1 http://x/users/1 * 1""".split()

UNPLAIN_STARTS = [
    *(f"{method} /users/1 HTTP/1.1" for method in "HEAD get OPTIONS PUT PATCH TRACE GETS ET".split()),
    *(
        f"GET /users/1 {version}"
        for version in "HTTP/1.0 HTTP/1.2 HTTP/2.0 http/1.1 HTTP/1.1x HTTP/11 X".split()
    ),
    *("GET  /users/1 HTTP/1.1", "GET /users/1  HTTP/1.1", "GET /users/1 HTTP/1.1 ", " GET /users/1 HTTP/1.1"),
    *(
        "GET /users/1",
        "GET /users/1 x HTTP/1.1",
        "GET\t/users/1\tHTTP/1.1",
        "\r\nGET /users/1 HTTP/1.1",
        "GET",
    ),
    *(
        "GET /users/1\0 HTTP/1.1",
        "GET /users/1 HTTP/1.1\nX: 1",
        "GET /users/1 HTTP/1.1\r\r",
        "GET /users/\x80 HTTP/1.1",
    ),
]

UNPLAIN_LINES = [
    *("Connection: close", "Connection: keep-alive, x", "Connection: Upgrade\r\nUpgrade: h2c", "Connection:"),
    *(
        "Content-Length: 0",
        "Transfer-Encoding: chunked\r\n\r\n0",
        "Transfer-Encoding: x",
        "Expect: 100-continue",
    ),
    *('If-None-Match: "1"', 'If-None-Match: "2"', "If-None-Match: *", 'If-Match: "1"', "Range: bytes=0-1"),
    *(
        "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
        "Prefer: count=exact",
        "TE: trailers",
        "Keep-Alive: 5",
    ),
    *(NAVIGATION, "Accept: application/json", "Accept:", "Accept: */*;q=0.5", "Proxy-Connection: keep-alive"),
    *("X-Request-Id: not plain", "X-Request-Id:", "X-Request-Id: a ", "X-Request-Id: a\r\nX-Request-Id: b"),
    *(
        f"X-Request-Id: {'a' * 129}",
        f"X-Long: {'a' * 2048}",
        "X-Odd: \u00e9",
        "X-Odd: \x7f",
        "X-Odd: a\0b",
        "X-Odd: \x01",
    ),
    *(
        "X-Fold: a\r\n b",
        "X-Space : a",
        "X Space: a",
        ": nameless",
        "no colon",
        "X-Feed: a\nX-Other: b",
        "X-Return: a\rb",
    ),
    *(
        "Content-Length: 3\r\n\r\nabc",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: x",
        "(x): a",
    ),
]

UNPLAIN_KEYS = [
    *("X: no key", "Authorization:", "Authorization: Bearer", "Authorization: Bearer  ", "Authorization: {}"),
    *(
        "Authorization: Basic {}",
        "Authorization: Bearer\t{}",
        "Authorization: Bearer {}x",
        "Authorization: Bearer x",
    ),
    *(
        "Authorization: Bearer {0}\r\nAuthorization: Bearer {0}",
        "Authorization: Bearer, {}",
        "Authorization: Bearer{}",
    ),
    *(
        "Authorization: Basic x\r\nAuthorization: Bearer {}",
        "Authorization: Bearer {}\r\nAuthorization: Basic x",
    ),
    "Authorization: Bearer {} x",
]


def make(start: str, *lines: str) -> bytes:
    """A request out of its first line and its headers."""
    return "".join(f"{line}\r\n" for line in (start, "Host: x", *lines, "")).encode()


@pytest.mark.parametrize("path", UNPLAIN_PATHS)
def test_other_paths_go_the_long_way(both: Both, path: str) -> None:
    assert both.compare(get(path, both.ground.bearer))[1] == 0


@pytest.mark.parametrize("start", UNPLAIN_STARTS)
def test_other_first_lines_go_the_long_way(both: Both, start: str) -> None:
    assert both.compare(make(start, both.ground.bearer))[1] == 0


@pytest.mark.parametrize("line", UNPLAIN_LINES)
def test_other_headers_go_the_long_way(both: Both, line: str) -> None:
    assert both.compare(get("/users/1", both.ground.bearer, line))[1] == 0


@pytest.mark.parametrize("line", UNPLAIN_KEYS)
def test_other_keys_go_the_long_way(both: Both, line: str) -> None:
    assert both.compare(get("/users/1", line.format(both.ground.key)))[1] == 0


def test_keys_without_the_scope_go_the_long_way(both: Both) -> None:
    answer, count = both.compare(get("/users/1", f"Authorization: Bearer {both.ground.poor_key}"))
    assert (status_of(answer), count) == (403, 0)
