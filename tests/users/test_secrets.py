"""What is secret of users, and of who asks, is never in the log."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import argon2
import httpx
import pytest

from svc.config import Config
from tests.support import Service, make_key, problem, with_settings
from tests.support.logs import Log, forget_handlers, logged

Sql = Callable[..., list[tuple[Any, ...]]]

PASSWORD, EMAIL, OTHER = "correct horse hunter2", "dee.secret@example.com", "bob@example.com"
NEW = {"email": EMAIL, "password": PASSWORD, "display_name": "Dee"}

SAY_ALL = """create function say_all() returns trigger language plpgsql as $$ begin
    raise exception using errcode = 'P0001', message = new.email, detail = row_to_json(new)::text;
end $$;
create trigger say_all before insert or update on users for each row execute function say_all()"""

Serve = Callable[..., AbstractContextManager[tuple[httpx.Client, Log]]]


@pytest.fixture
def serve(config: Config, capfd: pytest.CaptureFixture[str]) -> Iterator[Serve]:
    """Runs a service with settings and two users in it: `with serve(log_requests=True) as (client, log):`."""

    @contextmanager
    def run(**settings: Any) -> Iterator[tuple[httpx.Client, Log]]:
        secrets = (PASSWORD, EMAIL, "dee.secret", OTHER, "$argon2", "hunter2")
        service = Service(with_settings(config, **settings))
        with logged(service, make_key(config), capfd, *secrets) as (client, log):
            for email in ("ada@example.com", OTHER):
                client.post("/users", json={**NEW, "email": email}).raise_for_status()
            yield client, log

    yield run
    forget_handlers()


def test_no_secret_is_logged_whatever_the_answer_is(serve: Serve) -> None:
    with serve(log_requests=True) as (client, log):
        token = client.headers["Authorization"]
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
            client.get("/users", headers={"Authorization": f"{token}x"}),
            client.get("/users", headers={"Authorization": token[7:], "X-Request-Id": f"{PASSWORD} {EMAIL}"}),
        ]
    statuses = [201, 409, 422, 422, 422, 400, 415, 409, 200, 422, 401, 401]
    assert [answer.status_code for answer in answers] == statuses
    assert [line["status"] for line in log.requests[2:]] == statuses
    log.assert_no_secrets("dee.secret-key", "eve@example.com", "email=", "fields=")


@pytest.mark.parametrize("body", [{"email": EMAIL}, {"display_name": "Eve"}])
def test_no_value_of_a_user_is_logged_where_the_database_says_all(
    serve: Serve, sql: Sql, body: dict[str, str]
) -> None:
    with serve(log_requests=True) as (client, log):
        sql(SAY_ALL)
        problem(client.patch("/users/2", json=body), 500)
        problem(client.post("/users", json=NEW), 500)
    assert [line["sqlstate"] for line in log.lines if line["message"] == "error"] == ["P0001"] * 2
    log.assert_no_secrets("Eve")


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
