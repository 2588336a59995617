"""The log: JSON lines on stderr, one a request where it is asked for, and never a value."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest

from svc.config import Config
from tests.support import problem, with_settings
from tests.support.logs import Log, forget_handlers, logged
from tests.support.things import make_key, serve_things

Sql = Callable[..., list[tuple[Any, ...]]]

NAME, NOTE, OTHER = "dee.secret", "a note of hunter2", "bob.private"
NEW = {"name": NAME, "note": NOTE}

Serve = Callable[..., AbstractContextManager[tuple[httpx.Client, Log]]]


@pytest.fixture
def serve(config: Config, capfd: pytest.CaptureFixture[str]) -> Iterator[Serve]:
    """Runs a service with settings and two things in it: `with serve(log_requests=True) as (client, log):`."""

    @contextmanager
    def run(**settings: Any) -> Iterator[tuple[httpx.Client, Log]]:
        secrets = (NAME, NOTE, OTHER, "hunter2")
        service = serve_things(with_settings(config, **settings))
        with logged(service, make_key(config), capfd, *secrets) as (client, log):
            for name in ("ada", OTHER):
                client.post("/things", json={**NEW, "name": name}).raise_for_status()
            yield client, log

    yield run
    forget_handlers()


def test_requests_are_not_logged_unless_asked_for(serve: Serve) -> None:
    with serve() as (client, log):
        client.get("/things").raise_for_status()
        client.post("/things", json=NEW).raise_for_status()
        problem(client.get("/things/99"), 404)
    assert log.lines == []


def test_each_request_is_one_line_with_its_id_and_its_status(serve: Serve) -> None:
    with serve(log_requests=True) as (client, log):
        answers = [
            client.get("/things/2"),
            client.head("/things"),
            client.post("/things", json=NEW, headers={"X-Request-Id": "mine-1"}),
            client.patch("/things/1", json={"note": 7}),
            client.delete("/things/1", headers={"X-Request-Id": "not plain"}),
            client.get("/things/1"),
            client.put("/things"),
            client.get("/things?limit=1&is_open=true"),
            client.get("/nope%0A%22%7B%1B[31m"),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 201, 422, 204, 404, 405, 200, 404]
    assert {line["level"] for line in log.lines} == {"info"}
    assert all(re.fullmatch(r"[-0-9]{10}T[:0-9]{8}[-+]\d{4}", line["time"]) for line in log.lines)
    lines = log.requests[2:]  # less those that made the two things
    assert len(lines) == len(answers)
    for line, answer in zip(lines, answers, strict=True):
        assert line["request_id"] == answer.headers["X-Request-Id"]
        assert line["method"] == answer.request.method
        assert line["status"] == answer.status_code
        assert isinstance(line["milliseconds"], float)
        assert line["milliseconds"] > 0
    assert [line["path"] for line in lines[:3]] == ["/things/2", "/things", "/things"]
    assert lines[2]["request_id"] == "mine-1"
    assert lines[-1]["path"] == '/nope\n"{\x1b[31m'
    assert "\x1b" not in log.text


def test_a_client_that_hangs_up_is_logged_too(serve: Serve) -> None:
    with serve(log_requests=True) as (client, log):
        head = (
            f"POST /things HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['Authorization']}\r\n"
            "X-Request-Id: cut\r\n"
        )
        head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(head.encode() + b'{"name": "dee.secret')
        client.get("/things").raise_for_status()
    assert [line["status"] for line in log.requests if line["request_id"] == "cut"] == [499]
    log.assert_no_secrets()


def test_no_value_is_logged_whatever_the_answer_is(serve: Serve) -> None:
    with serve(log_requests=True) as (client, log):
        token = client.headers["Authorization"]
        answers = [
            client.post("/things", json=NEW),
            client.post("/things", json=NEW),
            client.post("/things", json={**NEW, "note": [NOTE]}),
            client.post("/things", json={**NEW, "name": "eve.private", "parent": 99}),
            client.post(
                "/things", content=json.dumps(NEW)[:-1], headers={"Content-Type": "application/json"}
            ),
            client.post("/things", content=json.dumps(NEW)),
            client.patch("/things/2", json={"name": NAME}),
            client.get("/things", params={"sort": NAME}),
            client.get("/things", headers={"Authorization": f"{token}x"}),
            client.get("/things", headers={"Authorization": token[7:], "X-Request-Id": f"{NOTE} {NAME}"}),
        ]
    statuses = [201, 409, 422, 422, 400, 415, 409, 422, 401, 401]
    assert [answer.status_code for answer in answers] == statuses
    assert [line["status"] for line in log.requests[2:]] == statuses
    log.assert_no_secrets("eve.private", "sort=")


SAY_ALL = """create function say_all() returns trigger language plpgsql as $$ begin
    raise exception using errcode = 'P0001', message = new.name, detail = row_to_json(new)::text;
end $$;
create trigger say_all before insert or update on things for each row execute function say_all()"""


@pytest.mark.parametrize(
    ("sabotage", "status", "level", "detail"),
    [
        (SAY_ALL, 500, "error", None),
        (
            "alter table things add constraint odd check (name not like 'dee%')",
            500,
            "error",
            'new row for relation "things" violates check constraint "odd"',
        ),
        (
            "alter table things drop column details",
            503,
            "warning",
            'column "details" of relation "things" does not exist',
        ),
    ],
)
def test_an_error_is_logged_with_where_it_came_from_and_without_values(
    serve: Serve, sql: Sql, sabotage: str, status: int, level: str, detail: str | None
) -> None:
    with serve(log_requests=True) as (client, log):
        sql(sabotage)
        failed = problem(client.post("/things", json=NEW), status)
        problem(client.patch("/things/2", json={"name": NAME}), status)
    # The change may be refused untried: the start's look at the schema may have come in between.
    error, *_ = [line for line in log.lines if line["message"] == "error"]
    assert error["level"] == level
    assert error["request_id"] == failed["request_id"]
    assert re.fullmatch("[0-9A-Z]{5}", error["sqlstate"])
    assert error["detail"] == detail
    assert any("support/things.py" in frame for frame in error["frames"])
    assert log.requests[2]["request_id"] == failed["request_id"]
    assert log.requests[2]["status"] == status
    log.assert_no_secrets("Failing row")


def test_values_are_logged_only_where_that_is_asked_for(serve: Serve, sql: Sql) -> None:
    with serve(log_errors="full") as (client, log):
        sql(SAY_ALL)
        problem(client.patch("/things/2", json={"note": "Eve"}), 500)
    (line,) = log.lines
    assert OTHER in line["detail"]
    assert '"note":"Eve"' in line["detail"]


def test_what_a_client_did_wrong_is_no_line_of_the_log(serve: Serve) -> None:
    with serve() as (client, log):
        assert client.post("/things", json={**NEW, "name": OTHER}).status_code == 409
        assert client.post("/things", json={**NEW, "parent": 2**62}).status_code == 422
    assert log.lines == []
