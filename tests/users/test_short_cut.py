"""The short cut gives the answers of the long way, byte for byte, and only plain requests take it."""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import Service, with_settings
from tests.support.databases import Databases
from tests.support.raw import (
    CLIENTS,
    LAST,
    PLAIN_PAGES,
    UNPLAIN_KEYS,
    UNPLAIN_LINES,
    UNPLAIN_PAGES,
    UNPLAIN_PATHS,
    UNPLAIN_STARTS,
    Ground,
    Taken,
    Wire,
    cut,
    get,
    make,
    normalise,
    send_json,
    serve,
    status_of,
    statuses,
)


@pytest.fixture(scope="module")
def ground(databases: Databases) -> Iterator[Ground]:
    """Nine users, and keys for them."""
    with databases.lend() as url:
        yield Ground(url, "users")


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
        serve(with_settings(ground.config, short_cut=True), own=False) as hot,
        serve(with_settings(ground.config, short_cut=False), own=False) as stock,
    ):
        # Ids of one length, so that all answers with one have the same length, too.
        patch.setattr("svc.http.headers.COUNTER", itertools.count(1 << 24))
        yield Both(ground, hot, stock, Taken(patch))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["X-Request-Id: a.b:c/d+e=f-1_2"],
        ["x-request-id:no-space"],
        ["CONNECTION:\tKeep-Alive"],
        ["Connection: close"],
        ["Accept: text/plain;q=0.1, application/json"],
        ["Accept:"],
    ],
)
def test_what_clients_send_takes_the_short_cut(both: Both, client: str, lines: list[str]) -> None:
    answer, count = both.compare(get("/users/2", both.ground.bearer, *CLIENTS[client], *lines))
    named = [line for line in (*CLIENTS[client], *lines) if line.lower().startswith("x-request-id")]
    assert (status_of(answer), count) == (200, len(named) < 2)
    if named and named == lines[:1]:
        assert f"\r\nx-request-id: {lines[0].partition(':')[2].strip()}\r\n".encode() in answer


def test_a_client_of_http_1_0_takes_the_short_cut(both: Both) -> None:
    for lines in ([], ["Connection: keep-alive"], ["Connection: close"]):
        for path in ("/users/2", "/users/99"):
            data = get(path, both.ground.bearer, *lines).replace(b"HTTP/1.1", b"HTTP/1.0")
            answer, count = both.compare(data)
            assert (status_of(answer), count) == (200 if path == "/users/2" else 404, 1)
            kept = lines == ["Connection: keep-alive"]
            assert (b"\r\nconnection: keep-alive\r\n" in answer) == kept
            assert (b"\r\nconnection: close\r\n" in answer) == (not kept)


def test_what_a_mesh_adds_is_looked_past(both: Both) -> None:
    """A head that differs in an id alone is the one that is known."""
    both.warm()
    for number in range(20):
        lines = [f"X-Request-Id: {number}", f"traceparent: 00-{number:032x}-{number:016x}-01"]
        answer, count = both.compare(get("/users/2", both.ground.bearer, "User-Agent: mesh", *lines))
        assert (status_of(answer), count) == (200, 1)
        assert f"\r\nx-request-id: {number}\r\n".encode() in answer


def test_httpx_takes_the_short_cut(both: Both) -> None:
    both.warm()
    before = both.taken.count
    with both.hot.client(both.ground.key) as client:
        assert [client.get(f"/users/{number}").json()["id"] for number in (1, 9)] == [1, 9]
    assert both.taken.count - before == 2


def test_what_is_not_there_takes_the_short_cut(both: Both) -> None:
    for path in ("/users/77", f"/users/{2**63 - 1}"):
        answer, count = both.compare(get(path, both.ground.bearer))
        assert (status_of(answer), count) == (404, 1)
        assert b"\r\ncontent-type: application/problem+json\r\n" in answer


def test_of_schemes_the_case_is_free(both: Both) -> None:
    for line in ("authorization:bEARER  {}", "Authorization:\tBearer {} \t", "AUTHORIZATION: BEARER {}"):
        answer, count = both.compare(get("/users/2", line.format(both.ground.key)))
        assert (status_of(answer), count) == (200, 1)


@pytest.mark.parametrize("path", PLAIN_PAGES)
def test_plain_pages_take_the_short_cut(both: Both, path: str) -> None:
    with both.stock.client(both.ground.key) as client:
        cursor = client.get("/users?limit=4").json()["next_cursor"]
    answer, count = both.compare(get(path.format(cursor=cursor), both.ground.bearer, *CLIENTS["curl"]))
    assert count == 1
    if "cursor" not in path:
        assert status_of(answer) == 200
    elif "none" in path or "sort" in path:
        assert status_of(answer) == 422
    else:
        assert b'\r\n\r\n{"users":[{"id":5,' in answer


@pytest.mark.parametrize("path", [*UNPLAIN_PATHS, *UNPLAIN_PAGES])
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


PLAIN_CHANGES = [
    '{"display_name": null}',
    '{"is_active": true}',
    '  {"display_name":null,\r\n"is_active":true }\t',
    '{"display_name": null, "display_name": null}',
    '{"\\u0069s_active": true}',
]


@pytest.mark.parametrize("body", PLAIN_CHANGES)
@pytest.mark.parametrize(
    "kind", ["application/json", "application/merge-patch+json", "Application/JSON ; charset=x"]
)
def test_small_changes_take_the_short_cut(both: Both, body: str, kind: str) -> None:
    for path, status in (("/users/2", 200), ("/users/77", 404), (f"/users/{2**63 - 1}", 404)):
        answer, count = both.compare(send_json(f"PATCH {path}", body, both.ground.bearer, kind=kind))
        assert (status_of(answer), count) == (status, 1)


@pytest.mark.parametrize("client", CLIENTS)
def test_small_changes_of_all_clients_take_the_short_cut(both: Both, client: str) -> None:
    data = send_json("PATCH /users/2", PLAIN_CHANGES[0], *CLIENTS[client], both.ground.bearer)
    answer, count = both.compare(data)
    upgrades = any(
        line.startswith("Upgrade:") for line in CLIENTS[client]
    )  # no request with a body may ask for it
    assert (status_of(answer), count) == ((400, 0) if upgrades else (200, 1))


UNPLAIN_CHANGES = [  # path, body, lines, status
    ("/users/2", "{}", [], 204),
    ("/users/2", '{"email": "2@example.com"}', [], 200),
    ("/users/2", '{"profile": {}}', [], 200),
    ("/users/2", '{"display_name": "\u0000"}', [], 400),
    ("/users/2", '{"display_name": 5, "colour": "red"}', [], 422),
    ("/users/2", '{"display_name": null', [], 400),
    ("/users/2", '{"display_name": "\\ud800"}', [], 400),
    ("/users/2", "[" * 1500, [], 400),
    ("/users/2", "\ufeff" + PLAIN_CHANGES[0], [], 200),
    ("/users/2", PLAIN_CHANGES[0] + " " * 4100, [], 200),
    ("/users/02", PLAIN_CHANGES[0], [], 404),
    ("/users/2?x=1", PLAIN_CHANGES[0], [], 200),
    ("/users/2/", PLAIN_CHANGES[0], [], 404),
    ("/users/2", PLAIN_CHANGES[0], ['If-Match: "99999"'], 412),
    ("/users/2", PLAIN_CHANGES[0], ["If-None-Match: *"], 412),
    ("/users/2", PLAIN_CHANGES[0], ["Content-Encoding: gzip"], 415),
    ("/users/2", PLAIN_CHANGES[0], ["Content-Length: 22"], 400),
    ("/users/2", PLAIN_CHANGES[0], ["Transfer-Encoding: chunked"], 400),
    ("/users/2", PLAIN_CHANGES[0], ["Host: y"], 400),
]


@pytest.mark.parametrize(("path", "body", "lines", "status"), UNPLAIN_CHANGES)
def test_other_changes_go_the_long_way(
    both: Both, path: str, body: str, lines: list[str], status: int
) -> None:
    answer, count = both.compare(send_json(f"PATCH {path}", body, both.ground.bearer, *lines))
    assert (status_of(answer), count) == (status, 0)


def test_changes_of_another_type_or_with_another_key_go_the_long_way(both: Both) -> None:
    data = send_json("PATCH /users/2", PLAIN_CHANGES[0], both.ground.bearer, kind="text/plain")
    assert (status_of(both.compare(data)[0]), both.compare(data)[1]) == (415, 0)
    for line, status in (("", 401), ("Authorization: Bearer bl_unknown", 401)):
        data = send_json("PATCH /users/2", PLAIN_CHANGES[0], *filter(None, [line]))
        answer, count = both.compare(data)
        assert (status_of(answer), count) == (status, 0)
    data = send_json("GET /users/2", PLAIN_CHANGES[0], both.ground.bearer)
    assert both.compare(data)[1] == 0


def test_a_change_whose_body_comes_later_goes_the_long_way(both: Both) -> None:
    both.warm()
    data, before = send_json("PATCH /users/2", PLAIN_CHANGES[0], both.ground.bearer), both.taken.count
    with Wire(both.hot) as wire:
        for place in range(1, len(data)):
            wire.send(data[:place], data[place:])
            assert status_of(wire.read()) == 200
    assert both.taken.count - before < len(data) / 2  # but for those that the network has joined


TAKEN = '{"email": "1@example.com", "password": "correct horse"}'
"""Of a new user whose email is taken, so that both ways give the same answer."""


def test_new_users_take_the_short_cut(both: Both) -> None:
    for body in (
        TAKEN,
        TAKEN.replace("1@", " 1@").replace(" 1", "1"),
        TAKEN.replace("}", ', "display_name": "A"}'),
    ):
        answer, count = both.compare(send_json("POST /users", body, both.ground.bearer))
        assert (status_of(answer), count) == (409, 1)
    said = []
    for number, service in enumerate((both.stock, both.hot)):
        body = TAKEN.replace("1@", f"new{number}@")
        with Wire(service) as wire:
            said.append(wire.ask(send_json("POST /users", body, both.ground.bearer)))
    assert [status_of(answer) for answer in said] == [201, 201]
    varying = re.compile(rb'new\d|(?<=/users/)\d+|(?<="id":)\d+|(?<="created_at":)"[^"]+"')
    one, other = (varying.sub(b"*", normalise(answer)) for answer in said)
    lengths = re.compile(rb"content-length: \d+")  # a moment may have fewer decimals
    assert lengths.sub(b"", one) == lengths.sub(b"", other)


@pytest.mark.parametrize(
    ("path", "body", "lines", "status"),
    [
        ("/users?x=1", TAKEN, [], 409),
        ("/users/", TAKEN, [], 404),
        ("/users", TAKEN.replace("}", ', "profile": {}}'), [], 409),
        ("/users", TAKEN.replace("}", ', "referred_by": 99}'), [], 409),
        ("/users", TAKEN, ["Idempotency-Key: abc"], 409),
        ("/users", TAKEN, ["Content-Encoding: gzip"], 415),
        ("/users", TAKEN.replace("correct horse", "short"), [], 422),
        ("/users", TAKEN.replace("1@example.com", "nobody"), [], 422),
        ("/users", TAKEN[:-1], [], 400),
    ],
)
def test_other_new_users_go_the_long_way(
    both: Both, path: str, body: str, lines: list[str], status: int
) -> None:
    answer, count = both.compare(send_json(f"POST {path}", body, both.ground.bearer, *lines))
    assert (status_of(answer), count) == (status, 0)


def test_a_new_user_without_a_key_or_its_scope_goes_the_long_way(both: Both) -> None:
    answer, count = both.compare(send_json("POST /users", TAKEN))
    assert (status_of(answer), count) == (401, 0)
    data = send_json("POST /users", TAKEN, both.ground.bearer, kind="application/merge-patch+json")
    answer, count = both.compare(data)
    assert (status_of(answer), count) == (415, 0)


@pytest.mark.parametrize(
    "body",
    [
        '{"ids": [3, 1, 77, 3]}',
        '{"ids": []}',
        '{"emails": ["2@Example.com", "nobody@example.com", "2@example.com"]}',
        '{"ids": [' + ", ".join(["1000001"] * 400) + "]}",
    ],
)
def test_look_ups_take_the_short_cut(both: Both, body: str) -> None:
    answer, count = both.compare(send_json("POST /users/lookup", body, both.ground.bearer))
    assert (status_of(answer), count) == (200, 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{}", 422),
        ('{"ids": [1], "emails": []}', 422),
        ('{"ids": [0]}', 422),
        ('{"emails": ["nobody"]}', 422),
        ('{"ids": [' + ", ".join(["1"] * 1001) + "]}", 422),
        ('{"ids": [' + ", ".join(["1000001"] * 500) + "]}", 200),
    ],
)
def test_other_look_ups_go_the_long_way(both: Both, body: str, status: int) -> None:
    answer, count = both.compare(send_json("POST /users/lookup", body, both.ground.bearer))
    assert (status_of(answer), count) == (status, 0)


def test_two_requests_may_be_cut_anywhere(both: Both) -> None:
    both.warm()
    pair = get("/users/1", both.ground.bearer) + get("/users/77", both.ground.bearer)
    said = list[bytes]()
    for service in (both.stock, both.hot):
        said.append(b"")
        with Wire(service) as wire:
            for place in range(1, len(pair)):
                wire.send(pair[:place], pair[place:])
                said[-1] += normalise(wire.read() + wire.read())
            wire.send(LAST)
            said[-1] += normalise(wire.read_all())
    assert said[0] == said[1]
    assert statuses(said[0]) == [200, 404] * (len(pair) - 1) + [200]


class Said(NamedTuple):
    """What a conversation's next request is made of; `alone`: it waits for the answers before it."""

    kind: str
    id: int
    client: list[str]
    name: str
    start: str
    lines: list[str]
    place: int
    value: int
    cuts: list[int]
    alone: bool

    def make(self, bearer: str) -> bytes:
        """Its bytes: plain, unplain, or plain but for one byte more or another."""
        plain = get(f"/users/{self.id}", bearer, *self.client, *([self.name] if self.name else []))
        if self.kind == "plain":
            return plain
        if self.kind == "change":
            body = PLAIN_CHANGES[self.place % len(PLAIN_CHANGES)]
            return send_json(f"PATCH /users/{self.id}", body, bearer, *self.client)
        if self.kind == "creation":
            return send_json("POST /users", TAKEN, bearer, *self.client)
        if self.kind == "look-up":
            return send_json("POST /users/lookup", f'{{"ids": [{self.id}, 1]}}', bearer, *self.client)
        if self.kind == "odd change":
            path, body, lines, _ = UNPLAIN_CHANGES[self.place % len(UNPLAIN_CHANGES)]
            return send_json(f"PATCH {path}", body, bearer, *self.client, *lines)
        if self.kind == "page":
            return get(f"/users?limit={self.id}&sort=-id", bearer, *self.client)
        if self.kind == "unplain":
            lines = [line.format(bearer.rpartition(" ")[2]) for line in self.lines]
            return make(self.start, *lines[: self.place % 3], bearer, *self.client, *lines[self.place % 3 :])
        place = self.place % len(plain)
        return plain[:place] + bytes([self.value]) + plain[place + (self.kind == "changed") :]


SAID = st.builds(
    Said,
    kind=st.sampled_from(
        ["plain"] * 12
        + ["page"] * 3
        + ["change", "creation", "look-up"] * 3
        + ["odd change"]
        + ["unplain", "changed", "longer"]
    ),
    id=st.sampled_from([1, 1, 2, 3, 9, 77]),
    client=st.sampled_from(list(CLIENTS.values())),
    name=st.sampled_from(["", "", "X-Request-Id: mine", "x-request-id:a/1:2"]),
    start=st.sampled_from(
        ["GET /users/1 HTTP/1.1", *UNPLAIN_STARTS, *(f"GET {path} HTTP/1.1" for path in UNPLAIN_PATHS)]
    ),
    lines=st.lists(st.sampled_from([*UNPLAIN_LINES, *UNPLAIN_KEYS]), max_size=2),
    place=st.integers(0, 1000),
    value=st.integers(0, 255),
    cuts=st.lists(st.integers(0, 1000), max_size=2),
    alone=st.sampled_from([True, True, False]),
)


def talk(service: Service, conversation: list[Said], bearer: str, *, half_close: bool) -> bytes:
    """All that a service says in a conversation."""
    said, awaited = b"", list[bytes]()
    with Wire(service) as wire:
        for turn in conversation:
            while turn.alone and awaited:
                said += wire.read(to_head=awaited.pop(0).startswith(b"HEAD"))
            awaited.append(turn.make(bearer))
            wire.send(*cut(awaited[-1], turn.cuts), pause=0.0003)
        if half_close:
            wire.half_close()
        else:
            wire.send(LAST)
        return normalise(said + wire.read_all())


def test_conversations_are_the_same_byte_for_byte(both: Both) -> None:
    both.warm()
    bearer, asked, taken = both.ground.bearer, 0, both.taken.count

    @settings(max_examples=150)
    @given(conversation=st.lists(SAID, min_size=8, max_size=24), half_close=st.booleans())
    def compare(conversation: list[Said], half_close: bool) -> None:
        nonlocal asked
        asked += len(conversation)
        expected = talk(both.stock, conversation, bearer, half_close=half_close)
        assert talk(both.hot, conversation, bearer, half_close=half_close) == expected

    compare()
    assert asked > 1000
    assert both.taken.count - taken > 100
