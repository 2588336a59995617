"""Statuses: an operation declares all that it can give, and a test that sees another one fails."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from svc.config import Config
from svc.http.operations import Operation
from svc.http.resource import Resource
from svc.http.resource import Service as Parts
from tests.support import Service, problem, with_settings
from tests.support.raw import Ground, Wire, make
from tests.support.statuses import undeclared
from tests.support.things import PROVEN, CreateThing, ListThings, Thing, build, make_key, serve_things

Sql = Callable[..., list[tuple[Any, ...]]]

CHANGES: Mapping[str, Mapping[str, object]] = {
    "PATCH /things/{id}": {"problems": (409,)},
    "POST /things": {"problems": ()},
    "GET /things": {"query": None, "fast": None},
    "GET /things/{id}": {"answers": {201: None}, "fast": None},
    "DELETE /things/{id}": {"problems": (412,)},
}
"""Operations that declare too little, but for the last."""


def build_undeclared(parts: Parts) -> Resource:
    """Return the resource of things, with operations that declare too little."""
    things = build(parts)
    return replace(things, operations=[replace(each, **CHANGES[str(each)]) for each in things.operations])


def take_undeclared() -> list[str]:
    """Return what was seen, up to the declared ones, and forget it."""
    seen = [line.partition(",")[0] for line in undeclared]
    undeclared.clear()
    return seen


def test_a_status_that_is_not_declared_is_seen_with_its_operation(config: Config) -> None:
    with (
        Service(config, build_undeclared, proven=PROVEN) as service,
        service.client(make_key(config)) as client,
    ):
        for name in ("ada", "bob"):
            client.post("/things", json={"name": name}).raise_for_status()
        problem(client.post("/things", json={"name": "ada"}), 409)
        assert take_undeclared() == ["POST /things gave 409"]
        problem(client.patch("/things/1", json={"note": "x"}, headers={"If-Match": '"9"'}), 412)
        assert take_undeclared() == ["PATCH /things/{id} gave 412"]
        assert client.get("/things/2").status_code == client.head("/things/2").status_code == 200
        assert take_undeclared() == ["GET /things/{id} gave 200"] * 2
        problem(client.get("/things?limit=0"), 422)
        assert take_undeclared() == ["GET /things gave 422"]
        assert client.delete("/things/1").status_code == 204
        problem(client.delete("/things/1"), 404)
        problem(client.put("/things"), 405)
        problem(client.get("/things", headers={"Authorization": "Bearer x"}), 401)
        problem(client.get("/things/1%0A"), 404)
    assert take_undeclared() == []


def test_what_the_database_breaks_is_seen_as_it_is_answered(config: Config, sql: Sql) -> None:
    with (
        Service(config, build_undeclared, proven=PROVEN) as service,
        service.client(make_key(config)) as client,
    ):
        problem(client.post("/things", json={"name": "ada", "size": 2**31}), 422)
        sql("alter table things add constraint odd check (name <> 'bob')")
        problem(client.post("/things", json={"name": "bob"}), 500)
        sql("alter table things drop column note")
        problem(client.post("/things", json={"name": "cyd"}), 503)
    assert take_undeclared() == []


def test_every_status_that_a_whole_operation_gives_is_declared(
    client: httpx.Client, things: list[dict[str, Any]]
) -> None:
    given = [
        client.get("/things/1"),
        client.get("/things/1", headers={"If-None-Match": '"1"'}),
        client.get("/things/99"),
        client.get("/things/1", headers={"Authorization": "x"}),
        client.patch("/things/1", json={"name": things[1]["name"]}),
        client.patch("/things/1", json={}, headers={"If-Match": '"9"'}),
        client.patch("/things/1", content=b"{", headers={"Content-Type": "application/json"}),
        client.patch("/things/1", content=b"{}"),
        client.patch("/things/1", json={"size": "x"}),
        client.delete("/things/1"),
    ]
    assert [answer.status_code for answer in given] == [200, 304, 404, 401, 409, 412, 400, 415, 422, 204]
    assert undeclared == []


OF_ALL = {500, 503}
OF_KEYS = {401, 403}


@pytest.mark.parametrize(
    ("changes", "statuses"),
    [
        ({}, set()),
        ({"scope": "things:read"}, OF_KEYS),
        ({"path": "/things/{id}"}, {404}),
        ({"query": ListThings}, {400, 422}),
        ({"body": CreateThing}, {400, 413, 415, 422}),
        ({"line": CreateThing}, {415}),
        ({"problems": (409, 412)}, {409, 412}),
    ],
)
def test_the_statuses_of_an_operation_follow_from_what_it_takes(
    config: Config, changes: dict[str, object], statuses: set[int]
) -> None:
    handler = build(Parts(config)).operations[0].handler
    plain = Operation("GET", "/things", handler, {200: Thing, 304: None})
    assert replace(plain, **changes).statuses == {200, 304, 412} | OF_ALL | statuses


@pytest.mark.parametrize(
    ("path", "body", "start"),
    [
        ("/things", b"[]", b"HTTP/1.1 422 Unprocessable Content\r\n"),
        ("/things", b"x" * 300_000, b"HTTP/1.1 413 Content Too Large\r\n"),
        ("/things?limit=0", b"", b"HTTP/1.1 422 Unprocessable Content\r\n"),
    ],
)
def test_a_status_has_the_words_of_rfc_9110_with_each_version_of_python(
    ground: Ground, path: str, body: bytes, start: bytes
) -> None:
    method = "POST" if body else "GET"
    lines = [ground.bearer, "Content-Type: application/json", f"Content-Length: {len(body)}"]
    for short_cut in (True, False):
        with (
            serve_things(with_settings(ground.config, short_cut=short_cut)) as service,
            Wire(service) as wire,
        ):
            answer = wire.ask(make(f"{method} {path} HTTP/1.1", *lines) + body)
            assert answer.startswith(start)
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["title"].encode() == start[13:-2]
