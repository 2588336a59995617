"""A refused body through proxies: the answer reaches the client, and takes no backend out.

What a proxy still sends while the backend closes ends in a reset, which it takes for a dead backend.
"""

import http.client
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from svc.http.protocol import LINGER_SIZE
from tests.support.proxies import LETTING, Proxy, Start, check_both_serve
from tests.support.raw import Ground, Wire, make, status_of

JSON = {"Content-Type": "application/json"}
SMALL, LARGE = 300_000, 20_000_000
PROBLEM = "application/problem+json"


class Refused(NamedTuple):
    """A request whose body is refused, or sent in vain, and the status of the answer."""

    status: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    chunked: bool


def find_refused(key: str, size: int) -> Iterator[Refused]:
    """Give requests with bodies of a size, or of as much as is parsed."""
    good, body = {**JSON, "Authorization": f"Bearer {key}"}, b"x" * size
    for chunked in (False, True):
        yield Refused(413, "POST", "/users", good, body, chunked)
        yield Refused(401, "POST", "/users", JSON, body, chunked)
        yield Refused(415, "POST", "/users", {**good, "Content-Type": "text/plain"}, body, chunked)
        yield Refused(404, "POST", "/nope", good, body, chunked)
        yield Refused(405, "PUT", "/users/1", good, body, chunked)
        yield Refused(400, "POST", "/users", good, b"{" * min(size, 262_144), chunked)


class Answer(NamedTuple):
    """What a client heard."""

    status: int
    media_type: str
    text: str


def ask_http_client(proxy: Proxy, refused: Refused) -> Answer:
    """Ask with Python's own client, which sends all of a body before it reads."""
    connection = http.client.HTTPConnection(*proxy.address, timeout=60)
    pieces = (refused.body[at : at + 65_536] for at in range(0, len(refused.body), 65_536))
    body: Any = pieces if refused.chunked else refused.body
    connection.request(refused.method, refused.path, body, refused.headers, encode_chunked=refused.chunked)
    answer = connection.getresponse()
    found = Answer(answer.status, answer.headers["content-type"], answer.read().decode())
    connection.close()
    return found


def ask_curl(proxy: Proxy, refused: Refused) -> Answer:
    """Ask with curl, which reads while it sends."""
    headers = {**refused.headers, **({"Transfer-Encoding": "chunked"} if refused.chunked else {})}
    options = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    options += ["-sS", "-X", refused.method, "--data-binary", "@-", "-w", "\n%{http_code} %{content_type}"]
    command = ["curl", *options, proxy.url + refused.path]
    said = subprocess.run(command, input=refused.body, capture_output=True, timeout=60).stdout.decode()
    text, _, last = said.rpartition("\n")
    status, _, media_type = last.partition(" ")
    return Answer(int(status), media_type, text)


def ask_raw(proxy: Proxy, refused: Refused) -> Answer:
    """Ask with a client that sends as much as it can, and then reads what there is."""
    size, body = len(refused.body), refused.body
    if refused.chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
    framing = "Transfer-Encoding: chunked" if refused.chunked else f"Content-Length: {size}"
    lines = [f"{name}: {value}" for name, value in refused.headers.items()]
    with Wire(proxy) as wire:
        answer = wire.ask(make(f"{refused.method} {refused.path} HTTP/1.1", *lines, framing) + body)
    text = answer.decode()
    return Answer(status_of(answer), PROBLEM if PROBLEM in text else "", text)


NODE = """
const [url, method, headers, size, letter, chunked] = process.argv.slice(1)
const body = Buffer.alloc(+size, letter)
const length = chunked ? {} : {'Content-Length': body.length}
const request = require('http').request(url, {method, headers: {...JSON.parse(headers), ...length}}, answer => {
  const parts = []
  answer.on('data', part => parts.push(part))
  answer.on('end', () => {
    console.log(answer.statusCode + ' ' + answer.headers['content-type'] + '\\n' + Buffer.concat(parts))
    process.exit()
  })
})
request.end(body)
"""


def ask_node(proxy: Proxy, refused: Refused) -> Answer:
    """Ask with node's own client."""
    url, headers, size = proxy.url + refused.path, json.dumps(refused.headers), str(len(refused.body))
    arguments = [url, refused.method, headers, size, refused.body[:1].decode(), "yes" * refused.chunked]
    ran = subprocess.run(["node", "-e", NODE, *arguments], capture_output=True, text=True, timeout=60)
    first, _, text = ran.stdout.partition("\n")
    status, _, media_type = first.partition(" ")
    return Answer(int(status or 0), media_type, text + ran.stderr)


CLIENTS: Mapping[str, Callable[[Proxy, Refused], Answer]] = {
    "http.client": ask_http_client,
    "curl": ask_curl,
    "raw": ask_raw,
    "node": ask_node,
}


def check_refusals(proxy: Proxy, key: str, client: str, size: int) -> None:
    """Send each thrice, so that they could take out both backends; then both serve."""
    for refused in find_refused(key, size):
        for _ in range(3):
            answer = CLIENTS[client](proxy, refused)
            told = refused._replace(body=b"")
            assert answer[:2] == (refused.status, PROBLEM), (told, answer)
            assert '"request_id"' in answer.text, (told, answer)
    check_both_serve(proxy, key)


@pytest.mark.parametrize("kind", LETTING)
def test_a_refusal_reaches_a_client_that_still_sends_and_takes_no_backend_out(
    start: Start, ground: Ground, kind: str
) -> None:
    check_refusals(start(kind), ground.key, "http.client", SMALL)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", LETTING)
def test_it_reaches_every_client(
    start: Start, ground: Ground, pytestconfig: pytest.Config, kind: str, client: str, size: int
) -> None:
    if not pytestconfig.getoption("--full"):
        pytest.skip("takes minutes: --full")
    if client in ("curl", "node") and not shutil.which(client):
        pytest.skip(f"there is no {client}")
    if (kind, size) == ("caddy", LARGE) and client != "raw":
        pytest.skip("Caddy resets whoever sends on, half a second behind its answer")
    if (client, size) == ("http.client", LARGE):
        size = LINGER_SIZE // 2  # what it sends before it reads must be read
    check_refusals(start(kind), ground.key, client, size)


@pytest.mark.parametrize("kind", [name for name in LETTING if name != "haproxy"])
def test_a_head_of_too_many_fields_is_refused_though_a_body_follows(
    start: Start, ground: Ground, kind: str
) -> None:
    """HAProxy takes as many itself, and answers what is more with a 400 of its own."""
    proxy, fields = start(kind), [f"X-{number}: 1" for number in range(101)]
    head = make("POST /users HTTP/1.1", *fields, f"Content-Length: {SMALL}")
    for _ in range(3):
        with Wire(proxy) as wire:
            answer = wire.ask(head + b"x" * SMALL)
        assert status_of(answer) == 431
        assert b"urn:bareline:problem:head-too-large" in answer
    check_both_serve(proxy, ground.key)
