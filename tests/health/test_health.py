"""Whether the service lives and is ready: what it says of a database in every kind of trouble."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from svc import health
from svc.check.drift import Difference, Watch
from svc.config import Config
from svc.database_url import DatabaseUrl
from svc.migrations import migrate
from tests.support import Service, at, make_key, problem, with_settings
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("impatient")

LOOK = Watch.look

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def probe(service: Service) -> Iterator[httpx.Client]:
    """A client without a key, as probes are."""
    with service.client() as client:
        yield client


def failures(client: httpx.Client) -> str:
    """What a service that is not ready says is wrong."""
    document = problem(client.get("/health/ready"), 503)
    assert document["type"] == "urn:bareline:problem:not-ready"
    return "\n".join(f"{error['pointer']} {error['detail']}" for error in document.get("errors", ()))


def wait_for_status(client: httpx.Client, path: str, status: int) -> None:
    """Ask until the answer has the status."""
    wait_for(lambda: client.get(path).status_code == status)


def test_a_service_with_its_database_is_live_and_ready(probe: httpx.Client) -> None:
    assert probe.get("/health/live").json() == {"status": "live"}
    assert probe.get("/health/ready").json() == {"status": "ready"}
    assert [probe.head(f"/health/{name}").status_code for name in ("live", "ready")] == [200, 200]


LAST = "(select max(migration_id) from migration_checksums)"


@pytest.mark.parametrize(
    ("trouble", "named"),
    [
        (f"delete from migration_checksums where migration_id = {LAST}", "is pending"),
        (f"update migration_checksums set checksum = 'x' where migration_id = {LAST}", "is edited"),
        ("alter table users rename column display_name to shown_name", "users.sql:"),
        ("alter table users alter column is_active type text", "users.sql:"),
        ("drop table api_keys", "api_keys.sql:"),
        ("drop function jsonb_merge_patch", "update_user"),
        ("drop table migration_checksums", "0001_create_migration_checksums is pending"),
    ],
)
def test_a_schema_that_is_not_ours_is_not_ready(
    client: httpx.Client, probe: httpx.Client, sql: Sql, trouble: str, named: str
) -> None:
    wait_for_status(probe, "/health/ready", 200)
    assert client.get("/users").status_code == 200  # so the key is known, also where its table goes
    sql(trouble)
    assert named in failures(client)
    assert failures(probe) == ""
    assert probe.get("/health/live").status_code == 200


def test_a_schema_that_is_ahead_is_ready(probe: httpx.Client, sql: Sql) -> None:
    sql("insert into migration_checksums (migration_id, checksum) values ('9999_of_a_newer_release', 'x')")
    sql("alter table users add column newer text")
    assert probe.get("/health/ready").json() == {"status": "ready"}


def test_a_database_that_takes_no_writes_is_not_ready_until_it_does_again(config: Config, sql: Sql) -> None:
    name = sql("select current_database()")[0][0]
    token = make_key(config)
    sql(f"alter database {name} set default_transaction_read_only = on")
    with Service(config) as service, service.client(token) as probe:
        assert "takes no writes" in failures(probe)
        sql(f"alter database {name} reset default_transaction_read_only")  # for new connections
        wait_for_status(probe, "/health/ready", 200)  # though nothing was written meanwhile


def test_a_service_that_started_before_the_migrations_serves_after_them(
    config: Config, empty_url: DatabaseUrl
) -> None:
    config = with_settings(config, database_url=empty_url, open_registration=True)
    with Service(config) as service, service.client() as client:
        assert failures(client) == ""  # nobody has a key
        problem(client.post("/users", json={"email": "a@example.com", "password": "correct horse"}), 503)
        asyncio.run(migrate(config))
        wait_for_status(client, "/health/ready", 200)


def test_a_service_whose_readiness_nobody_asks_serves_after_the_migrations_too(
    config: Config, empty_url: DatabaseUrl
) -> None:
    config = with_settings(config, database_url=empty_url)
    with Service(config) as service, service.client("bl_unknown") as client:
        problem(client.get("/users"), 503)
        asyncio.run(migrate(config))
        wait_for_status(client, "/users", 401)


def test_a_service_starts_while_its_database_is_not_there_and_is_ready_once_it_is(
    config: Config, server_url: DatabaseUrl, admin: Callable[[str], None], template: str
) -> None:
    name = f"{template}_later"
    config = with_settings(config, database_url=at(server_url, name))
    with Service(config) as service, service.client("bl_unknown") as client:
        assert client.get("/health/live").status_code == 200
        for path in ("/health/ready", "/users"):
            document = problem(client.get(path), 503)
            assert document["type"] == "urn:bareline:problem:database-unavailable"
            assert name not in str(document)
        admin(f"create database {name} template {template}")
        wait_for_status(client, "/health/ready", 200)
        problem(client.get("/users"), 401)
    admin(f"drop database {name} with (force)")


def test_many_who_ask_have_one_look_in_a_while(probe: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    async def look(watch: Watch) -> list[Difference]:
        looks.append(time.monotonic())
        return await LOOK(watch)

    monkeypatch.setattr(Watch, "look", look)
    monkeypatch.setattr(health, "PROBE_INTERVAL", 3600.0)
    with ThreadPoolExecutor(8) as threads:
        statuses = [*threads.map(lambda _: probe.get("/health/ready").status_code, range(200))]
    assert (statuses, len(looks)) == ([200] * 200, 1)
    monkeypatch.setattr(health, "PROBE_INTERVAL", 0.0)
    probe.get("/health/ready")
    assert len(looks) == 2


def test_what_is_missing_is_told_to_those_who_have_a_key(
    client: httpx.Client, service: Service, sql: Sql
) -> None:
    sql(f"delete from migration_checksums where migration_id = {LAST}")
    assert "is pending" in failures(client)
    for token in (None, "bl_unknown"):
        with service.client(token) as stranger:
            assert failures(stranger) == ""
