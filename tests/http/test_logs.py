"""The log: JSON lines on stderr, one a request where it is asked for, and never what is secret."""

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import argon2
import httpx
import pytest

from svc.config import Config
from tests.support import Service, make_key, problem, with_settings

Sql = Callable[..., list[tuple[Any, ...]]]
Line = dict[str, Any]

PASSWORD, EMAIL, OTHER = "correct horse hunter2", "dee.secret@example.com", "bob@example.com"
NEW = {"email": EMAIL, "password": PASSWORD, "display_name": "Dee"}


class Log:
    """What the service wrote to stderr, to be read once it has stopped."""

    def __init__(self) -> None:
        self.text = ""
        self.token = ""

    @property
    def lines(self) -> list[Line]:
        """Every line, as JSON."""
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def requests(self) -> list[Line]:
        """The lines of requests."""
        return [line for line in self.lines if line["message"] == "request"]

    def assert_no_secrets(self, *more: str) -> None:
        """Holds that nothing of ours and none of `more` is in it, as it is or in JSON's escapes."""
        secrets = (PASSWORD, EMAIL, "dee.secret", OTHER, self.token, "$argon2", "hunter2", *more)
        text = f"{self.text}{self.lines}"
        assert [secret for secret in secrets if secret in text] == []


Serve = Callable[..., Any]


@pytest.fixture
def serve(config: Config, capfd: pytest.CaptureFixture[str]) -> Iterator[Serve]:
    """Runs a service with settings and two users in it: `with serve(log_requests=True) as (client, log):`."""

    @contextmanager
    def run(**settings: Any) -> Iterator[tuple[httpx.Client, Log]]:
        log = Log()
        log.token = make_key(config)
        with Service(with_settings(config, **settings)) as service, service.client(log.token) as client:
            for email in ("ada@example.com", OTHER):
                client.post("/users", json={**NEW, "email": email}).raise_for_status()
            yield client, log
        log.text = capfd.readouterr().err

    yield run
    logging.getLogger().handlers.clear()  # they hold this test's stderr


def test_requests_are_not_logged_unless_asked_for(serve: Serve) -> None:
    with serve() as (client, log):
        client.get("/users").raise_for_status()
        client.post("/users", json=NEW).raise_for_status()
        problem(client.get("/users/99"), 404)
    assert log.lines == []


def test_each_request_is_one_line_with_its_id_and_its_status(serve: Serve) -> None:
    with serve(log_requests=True) as (client, log):
        answers = [
            client.get("/users/2?fields=id"),
            client.head("/users"),
            client.post("/users", json=NEW, headers={"X-Request-Id": "mine-1"}),
            client.patch("/users/1", json={"display_name": 7}),
            client.delete("/users/1", headers={"X-Request-Id": "not plain"}),
            client.get("/users/1"),
            client.put("/users"),
            client.get("/health/live"),
            client.get("/nope%0A%22%7B%1B[31m"),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 201, 422, 204, 404, 405, 200, 404]
    assert {line["level"] for line in log.lines} == {"info"}
    assert all(re.fullmatch(r"[-0-9]{10}T[:0-9]{8}[-+]\d{4}", line["time"]) for line in log.lines)
    lines = log.requests[2:]  # less the two users' own
    assert len(lines) == len(answers)
    for line, answer in zip(lines, answers, strict=True):
        assert line["request_id"] == answer.headers["X-Request-Id"]
        assert line["method"] == answer.request.method
        assert line["status"] == answer.status_code
        assert isinstance(line["milliseconds"], float)
        assert line["milliseconds"] > 0
    assert [line["path"] for line in lines[:3]] == ["/users/2", "/users", "/users"]
    assert lines[2]["request_id"] == "mine-1"
    assert lines[-1]["path"] == '/nope\n"{\x1b[31m'
    assert "\x1b" not in log.text


def test_a_client_that_hangs_up_is_logged_too(serve: Serve) -> None:
    with serve(log_requests=True) as (client, log):
        head = (
            f"POST /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {log.token}\r\nX-Request-Id: cut\r\n"
        )
        head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(head.encode() + b'{"email": "dee.secret')
        client.get("/users").raise_for_status()
    assert [line["status"] for line in log.requests if line["request_id"] == "cut"] == [499]
    log.assert_no_secrets()


def test_no_secret_is_logged_whatever_the_answer_is(serve: Serve) -> None:
    with serve(log_requests=True) as (client, log):
        answers = [
            client.post("/users", json=NEW, headers={"Idempotency-Key": "dee.secret-key"}),
            client.post("/users", json=NEW),
            client.post("/users", json={**NEW, "password": [PASSWORD]}),
            client.post("/users", json={**NEW, "email": f"{EMAIL} {PASSWORD}"}),
            client.post("/users", json={**NEW, "email": "eve@example.com", "referred_by": 99}),
            client.post("/users", content=json.dumps(NEW)[:-1], headers={"Content-Type": "application/json"}),
            client.post("/users", content=json.dumps(NEW)),
            client.patch("/users/2", json={"email": EMAIL}),
            client.get("/users", params={"email": EMAIL}),
            client.get("/users", params={"email": EMAIL, "password": PASSWORD}),
            client.get("/users", headers={"Authorization": f"Bearer {log.token}x"}),
            client.get("/users", headers={"Authorization": log.token, "X-Request-Id": f"{PASSWORD} {EMAIL}"}),
        ]
    statuses = [201, 409, 422, 422, 422, 400, 415, 409, 200, 422, 401, 401]
    assert [answer.status_code for answer in answers] == statuses
    assert [line["status"] for line in log.requests[2:]] == statuses
    log.assert_no_secrets("dee.secret-key", "eve@example.com", "email=", "fields=")


SAY_ALL = """create function say_all() returns trigger language plpgsql as $$ begin
    raise exception using errcode = 'P0001', message = new.email, detail = row_to_json(new)::text;
end $$;
create trigger say_all before insert or update on users for each row execute function say_all()"""


@pytest.mark.parametrize(
    ("sabotage", "status", "level", "detail"),
    [
        (SAY_ALL, 500, "error", None),
        (
            "alter table users add constraint odd check (email not like 'dee%')",
            500,
            "error",
            'new row for relation "users" violates check constraint "odd"',
        ),
        (
            "alter table users drop column profile",
            503,
            "warning",
            'column "profile" of relation "users" does not exist',
        ),
    ],
)
def test_an_error_is_logged_with_where_it_came_from_and_without_values(
    serve: Serve, sql: Sql, sabotage: str, status: int, level: str, detail: str | None
) -> None:
    with serve(log_requests=True) as (client, log):
        sql(sabotage)
        failed = problem(client.post("/users", json=NEW), status)
        problem(client.patch("/users/2", json={"email": EMAIL}), status)
    # The change may be refused untried: the start's look at the schema may have come in between.
    error, *_ = [line for line in log.lines if line["message"] == "error"]
    assert error["level"] == level
    assert error["request_id"] == failed["request_id"]
    assert re.fullmatch("[0-9A-Z]{5}", error["sqlstate"])
    assert error["detail"] == detail
    assert any("users/handlers.py" in frame for frame in error["frames"])
    assert log.requests[2]["request_id"] == failed["request_id"]
    assert log.requests[2]["status"] == status
    log.assert_no_secrets("Failing row")


def test_an_error_of_our_own_is_logged_with_what_it_says(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(hasher: argon2.PasswordHasher, password: str) -> str:
        raise argon2.exceptions.HashingError("out of memory")

    with serve() as (client, log):
        monkeypatch.setattr(argon2.PasswordHasher, "hash", fail)
        failed = problem(client.post("/users", json=NEW), 500)
        client.get("/users").raise_for_status()
    (line,) = log.lines
    assert (line["error"], line["request_id"]) == ("HashingError", failed["request_id"])
    assert line["detail"] == "out of memory"
    log.assert_no_secrets()


def test_values_are_logged_only_where_that_is_asked_for(serve: Serve, sql: Sql) -> None:
    with serve(log_errors="full") as (client, log):
        sql(SAY_ALL)
        problem(client.patch("/users/2", json={"display_name": "Eve"}), 500)
    (line,) = log.lines
    assert OTHER in line["detail"]
    assert '"display_name":"Eve"' in line["detail"]


def test_what_a_client_did_wrong_is_no_line_of_the_log(serve: Serve) -> None:
    with serve() as (client, log):
        assert client.post("/users", json={**NEW, "email": OTHER}).status_code == 409
        assert client.post("/users", json={**NEW, "referred_by": 2**62}).status_code == 422
    assert log.lines == []
