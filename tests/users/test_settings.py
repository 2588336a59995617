"""Settings of a role or a database: none changes an answer, or hinders a start."""

import asyncio
import re
from collections.abc import Callable

import httpx
import pytest

from svc.database_url import DatabaseUrl
from svc.migrations import migrate
from tests.support import NUMBERS, Service, at, make_config, make_key
from tests.support.logs import forget_handlers

ODD = """standard_conforming_strings=off quote_all_identifiers=on array_nulls=off transform_null_equals=on datestyle=German
    intervalstyle=iso_8601 timezone='Asia/Kathmandu' bytea_output=escape extra_float_digits=-15 xmloption=document
    default_transaction_deferrable=on default_transaction_isolation=serializable row_security=off check_function_bodies=off
    client_min_messages=debug1 plan_cache_mode=force_custom_plan client_encoding=latin1 backslash_quote=off
    enable_indexscan=off enable_bitmapscan=off jit=on default_text_search_config=simple""".split()

NDJSON = {"Content-Type": "application/x-ndjson"}
PEOPLE = [
    {"display_name": "A\\nda\\", "profile": {"a": "x\\y", "n": None, "u": "ü", "f": 1.1}},
    {"display_name": None, "profile": {}},
    {"display_name": "NULL", "profile": {"null": None}},
    {"display_name": "quo'te\"", "profile": {"q": "'\"\\\\"}},
    {"display_name": "=1+1", "profile": {}},
]
LINES = b"""{"email":"i1@example.com","password":"correct horse","display_name":"NULL"}
{"email":"i2@example.com","password":"correct horse","profile":{"a":"\\\\b"},"referred_by":1}
{"email":"i3@example.com","password":"correct horse","referred_by":999}
{bad"""
LISTS = """limit=2 sort=-id&limit=1 sort=created_at sort=-created_at&limit=2 sort=email&limit=2 sort=-email&limit=2
    is_active=true&limit=1 email=u1@example.com created_from=2020-01-01T00:00:00Z fields=id,profile,email""".split()


def use(client: httpx.Client) -> list[httpx.Response]:
    """Do all that there is to do with users."""
    answers = [client.get("/health/ready")]
    for number, person in enumerate(PEOPLE):
        body = {"email": f"u{number}@example.com", "password": "correct horse", **person}
        key = {"Idempotency-Key": f"k{number}"}
        answers += [client.post("/users", json=body, headers=key) for _ in range(2)]
    body = {"email": "u0@example.com", "password": "correct horse"}
    answers += [client.post("/users", json=body | {"referred_by": who}) for who in (None, 99)]
    answers += [
        client.get(f"/users/{number}?fields=id,email,display_name,profile") for number in (1, 2, 4, 99)
    ]
    for query in LISTS:
        answers.append(client.get(f"/users?{query}", headers={"Prefer": "count=exact"}))
        while following := answers[-1].links.get("next"):
            answers.append(client.get(following["url"]))
    answers.append(client.patch("/users/1", json={"display_name": None, "profile": {"a": None, "new": "\\"}}))
    answers.append(client.patch("/users/2", json={"email": "neu@bücher.example", "is_active": False}))
    answers.append(client.post("/users/lookup", json={"emails": ["u3@example.com", "none@example.com"]}))
    answers.append(client.post("/users/import", content=LINES, headers=NDJSON))
    answers += [
        client.get("/users/export", headers={"Accept": kind}) for kind in ("text/csv", NDJSON["Content-Type"])
    ]
    answers += [client.delete("/users/5"), client.get("/users"), client.get("/health/ready")]
    return answers


def show(answer: httpx.Response) -> str:
    """What an answer says, but for moments, ids of requests, and cursors, which hold moments."""
    shown = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
    text = f"{answer.request.method} {answer.status_code} {shown} {answer.text}"
    return re.sub(
        r"\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{16}-[0-9a-f]+|cursor(\":\"|=)[\w-]+|(?<=x-last-id': ')\d+",
        "*",
        text,
    )


def test_no_setting_of_a_database_changes_an_answer(
    server_url: DatabaseUrl, admin: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    said = []
    for settings in ((), ODD):
        name = f"settings_{next(NUMBERS)}"
        admin(f"create database {name} template template0")
        for setting in settings:
            admin(f"alter database {name} set {setting}")
        config = make_config(at(server_url, name))
        asyncio.run(migrate(config))
        with Service(config) as service, service.client(make_key(config)) as client:
            said.append([show(answer) for answer in use(client)])
        admin(f"drop database {name} with (force)")
    assert said[1] == said[0]
    assert "not as proven" not in capfd.readouterr().err
    forget_handlers()
