"""Whether the service lives and is ready: what it says of a database in every kind of trouble."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict

from svc.config import Config, DatabaseUrl
from svc.postgres.errors import QueryTimeoutError
from svc.postgres.migrations import migrate, read_files
from svc.postgres.pool import Database
from svc.users.handlers import UserQueries
from tests.postgres.test_pool import (
    OURS,
    PAIRS,
    ask,
    count_usable,
    find_backends,
    insert,
    on_a_loop,
    opened,
    refuse,
    sleep,
    transact,
)
from tests.support import Raw, Service, at, problem, with_settings

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
    return "\n".join(f"{error['pointer']} {error['detail']}" for error in document["errors"])


def wait_for(client: httpx.Client, path: str, status: int) -> None:
    """Asks until the answer has the status."""
    deadline = time.monotonic() + 10
    while (answer := client.get(path)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


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
    probe: httpx.Client, sql: Sql, trouble: str, named: str
) -> None:
    wait_for(probe, "/health/ready", 200)
    sql(trouble)
    assert named in failures(probe)
    assert probe.get("/health/live").status_code == 200


def test_a_schema_that_is_ahead_is_ready(probe: httpx.Client, sql: Sql) -> None:
    sql("insert into migration_checksums (migration_id, checksum) values ('9999_of_a_newer_release', 'x')")
    sql("alter table users add column newer text")
    assert probe.get("/health/ready").json() == {"status": "ready"}


def test_a_database_that_takes_no_writes_is_not_ready_until_it_does_again(config: Config, sql: Sql) -> None:
    name = sql("select current_database()")[0][0]
    sql(f"alter database {name} set default_transaction_read_only = on")
    with Service(config) as service, service.client() as probe:
        assert "takes no writes" in failures(probe)
        sql(f"alter database {name} reset default_transaction_read_only")  # for new connections
        wait_for(probe, "/health/ready", 200)  # though nothing was written meanwhile


def test_a_service_that_started_before_the_migrations_serves_after_them(
    config: Config, empty_url: DatabaseUrl
) -> None:
    config = with_settings(config, database_url=empty_url, open_registration=True)
    with Service(config) as service, service.client() as client:
        named = failures(client)
        assert [name for name in read_files() if f"migration {name} is pending" not in named] == []
        problem(client.post("/users", json={"email": "a@example.com", "password": "correct horse"}), 503)
        asyncio.run(migrate(config))
        wait_for(client, "/health/ready", 200)


def test_a_service_whose_readiness_nobody_asks_serves_after_the_migrations_too(
    config: Config, empty_url: DatabaseUrl
) -> None:
    config = with_settings(config, database_url=empty_url)
    with Service(config) as service, service.client("bl_unknown") as client:
        problem(client.get("/users"), 503)
        asyncio.run(migrate(config))
        wait_for(client, "/users", 401)


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
        wait_for(client, "/health/ready", 200)
        problem(client.get("/users"), 401)
    admin(f"drop database {name} with (force)")


class Gate:
    """A port in front of the server: it can be shut, and what is connected through it can be frozen."""

    def __init__(self, url: object) -> None:
        self._to = conninfo_to_dict(str(url))
        self._port = 0
        self._pairs: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._pumps: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> DatabaseUrl:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        login = f"{self._to.get('user', '')}:{self._to.get('password', '')}"
        return DatabaseUrl(f"postgresql://{login}@127.0.0.1:{self._port}/{self._to['dbname']}")

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.freeze()
        for _, writer in self._pairs:
            writer.close()

    def freeze(self) -> None:
        """Nothing comes through any more on what is connected; what connects from now on is not touched."""
        while self._pumps:
            self._pumps.pop().cancel()

    def thaw(self, last: int = 0) -> None:
        """What is connected goes on, or only the last so many directions of it."""
        self._pumps += [asyncio.create_task(pump(*pair)) for pair in self._pairs[-last:]]

    async def wait_until_left(self) -> None:
        """Ends when everybody on this side has hung up."""
        async with asyncio.timeout(10):
            for reader, _ in self._pairs[::2]:
                with suppress(ConnectionError):
                    await reader.read()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._to["host"]), int(self._to.get("port") or 5432)
        local = asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}") if host.startswith("/") else None
        answers, requests = await (local or asyncio.open_connection(host, port))
        self._pairs += [(reader, requests), (answers, writer)]
        self.thaw(2)


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Passes bytes on until one side is closed."""
    with suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
    target.close()


@on_a_loop
async def test_an_unreachable_server_is_503_until_it_can_be_reached(config: Config) -> None:
    gate = Gate(config.database_url)
    async with gate as url:
        pass
    async with opened(config, database_url=url, pool_size=2, acquire_timeout=1) as database:
        codes = await asyncio.gather(*(refuse(ask(database, "select 1")) for _ in range(20)))
        assert set(codes) == {"database-unavailable"}
        async with gate:
            assert await count_usable(database) == 2


@on_a_loop
async def test_a_frozen_network_costs_each_query_its_time_and_no_more(config: Config) -> None:
    gate = Gate(config.database_url)
    settings = {"pool_size": 2, "query_timeout": 0.2, "acquire_timeout": 1}
    async with gate as url, opened(config, database_url=url, **settings) as database:
        assert await count_usable(database) == 2
        gate.freeze()
        async with asyncio.timeout(20):
            codes = await asyncio.gather(*(refuse(sleep(database, 0)) for _ in range(4)))
            assert "outcome-unknown" in codes  # it might have been a write
            assert await count_usable(database) == 2


@on_a_loop
async def test_a_write_after_a_transaction_that_began_too_late_is_kept(config: Config, sql: Sql) -> None:
    gate = Gate(config.database_url)
    async with gate as url, opened(config, database_url=url, pool_size=1, query_timeout=0.3) as database:
        await ask(database, "select 1")
        gate.freeze()
        with pytest.raises(QueryTimeoutError):
            await transact(database, 0)
        gate.thaw()
        number = await insert(database)
        assert sql("select id from api_keys") == [(number,)]


@on_a_loop
async def test_closing_over_a_frozen_network_ends_and_leaves_nothing_open(config: Config) -> None:
    gate = Gate(config.database_url)
    async with gate as url:
        settings = {"pool_size": 10, "acquire_timeout": 0.2}
        database = Database(with_settings(config, database_url=url, **settings))
        assert await count_usable(database) == 10
        gate.freeze()
        async with asyncio.timeout(10):  # what `docker stop` grants
            await database.close()
        await gate.wait_until_left()


@on_a_loop
async def test_a_query_that_the_schema_breaks_is_503_until_a_check_finds_it_mended(
    config: Config, sql: Sql
) -> None:
    sql("alter table users rename column display_name to shown_name")
    async with opened(config, PAIRS) as database:
        users = UserQueries.bind(database)
        assert await refuse(users.get_user(id=1, with_profile=False)) == "schema-mismatch"
        assert await users.delete_user(id=1, versions=None) == 0
        sql("alter table users rename column shown_name to display_name")
        assert await database.check() == []
        assert await users.get_user(id=1, with_profile=False) is None
        sql("alter table users alter column display_name type varchar(500)")  # under a prepared statement
        assert await users.get_user(id=1, with_profile=False) is None


@on_a_loop
async def test_a_read_that_meets_a_lost_connection_is_run_again_and_a_write_is_not(
    config: Config, sql: Sql
) -> None:
    end = f"select pg_terminate_backend(pid, 5000) {OURS}"
    async with opened(config, pool_size=2) as database:
        await find_backends(database, 2)
        assert sql(end) == [(True,), (True,)]
        assert await ask(database, "select 1") == 1
        await find_backends(database, 2)
        assert sql(end) == [(True,), (True,)]
        assert await refuse(insert(database)) == "database-unavailable"
        assert sql("select count(*) from api_keys") == [(0,)]
        assert await insert(database)


@on_a_loop
async def test_a_connection_that_was_being_opened_expires_with_the_others(config: Config) -> None:
    async with opened(config, pool_size=1) as database:
        opening = sleep(database, 0)
        await asyncio.sleep(0)
        database.expire()
        assert await opening != await sleep(database, 0)


async def fail_outside_the_database(database: Database) -> None:
    """A transaction in which something else fails."""
    async with database.transaction(Raw):
        raise FileNotFoundError


@on_a_loop
async def test_an_error_of_the_callers_own_costs_no_connection(config: Config) -> None:
    async with opened(config, pool_size=2) as database:
        old = await find_backends(database, 2)
        with pytest.raises(FileNotFoundError):
            await fail_outside_the_database(database)
        assert await find_backends(database, 2) == old
