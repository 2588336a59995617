"""The benchmark's contract test: it passes whoever does the job, and names what one single defect breaks."""

import hashlib
import importlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
import pytest
import uvicorn
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.contract import READING, WRITING, check
from svc.config import Config
from svc.database_url import DatabaseUrl
from tests.support import Service, add_option, make_key
from tests.support.databases import Databases
from tests.support.defects import DEFECTS, USER, Handler, read

Sql = Callable[..., list[tuple[Any, ...]]]

TOKEN = "bl_of_the_peer"
PEER = "bench.peers.starlette_asyncpg"
SLOWLY = "alter database %I set synchronous_commit to on"
USERS = """
insert into users (email, hashed_password, display_name)
select 'user' || n || '@example.com', 'no hash', 'User ' || n from generate_series(1, 5) as n"""
ALL = {part.__name__ for part in (*READING, *WRITING)}


@contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    """Where an app listens, on a real uvicorn in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> Iterator[DatabaseUrl]:
    """A database with a few users, whose commits wait for the disk as in the benchmark. Each test leaves it so."""
    with databases.lend() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"do 'begin execute format($${SLOWLY}$$, current_database()); end'".encode())
            connection.execute(USERS.encode())
        yield url


@pytest.fixture(autouse=True)
def unchanged(sql: Sql) -> Iterator[None]:
    """Fails a test after which the users are not what they were."""
    before = sql("select * from users order by id")
    yield
    assert sql("select * from users order by id") == before


@pytest.fixture
def peer(database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a peer that keeps the contract, with its `app`."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("KEY_HASH", hashlib.sha256(TOKEN.encode()).hexdigest())
    for name, value in {"POOL_SIZE": 4, "HASH_MEMORY": 8, "HASH_PASSES": 1}.items():
        monkeypatch.setenv(name, str(value))
    return importlib.reload(importlib.import_module(PEER))


def try_out(app: ASGIApp, url: str, hash_passes: int = 1) -> dict[str, str]:
    """What the contract test says of an app: its lines by the part of the contract."""
    with serve(app) as base_url:
        lines = check(base_url, TOKEN, url, hash_memory=8, hash_passes=hash_passes)
    return dict(line.split(": ", 1) for line in lines)


def test_the_service_keeps_the_contract(database_url: DatabaseUrl, config: Config) -> None:
    with Service(config) as service:
        assert check(service.url, make_key(config), database_url, hash_memory=8, hash_passes=1) == []


def test_a_peer_keeps_it_and_the_table_stays_as_it_was(peer: Any, database_url: DatabaseUrl) -> None:
    assert try_out(peer.app, database_url) == {}


LATE = {"creation", "refusals", "imports", "last_page"}
"""Parts in which a change that comes late may be seen."""


@pytest.mark.parametrize("name", DEFECTS)
def test_a_single_defect_is_named(
    name: str, peer: Any, database_url: DatabaseUrl, pytestconfig: pytest.Config
) -> None:
    if [*DEFECTS].index(name) % 5 and not pytestconfig.getoption("--full"):
        pytest.skip("some are enough for each run: --full")
    defect = DEFECTS[name]
    replace(peer, defect.method, defect.path, defect.handler)
    found = try_out(peer.app, database_url).keys()
    assert defect.parts <= found <= defect.parts | (LATE if name == "an answer before the commit" else set())


def replace(peer: Any, method: str, path: str, handler: Handler) -> None:
    """Puts a handler before the peer's own."""
    peer.app.router.routes.insert(0, Route(path, partial(handler, peer), methods=[method]))


def test_a_commit_that_does_not_wait_for_the_disk_is_named(
    peer: Any, database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", add_option(database_url, "synchronous_commit=off"))
    assert try_out(peer.app, database_url).keys() == {"durability"}


def test_a_key_that_nobody_checks_is_named(peer: Any, database_url: DatabaseUrl) -> None:
    peer.app.user_middleware.clear()
    assert try_out(peer.app, database_url).keys() == {"keys"}


def test_a_cheaper_hash_than_was_asked_is_named(peer: Any, database_url: DatabaseUrl) -> None:
    assert try_out(peer.app, database_url, hash_passes=2).keys() == {"creation"}


def test_a_server_that_answers_nothing_fails_every_part(peer: Any, database_url: DatabaseUrl) -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        await (
            Response()(scope, receive, send) if scope["type"] == "http" else peer.app(scope, receive, send)
        )

    assert try_out(nothing, database_url).keys() == ALL


def test_a_server_that_is_not_there_fails_every_part(database_url: DatabaseUrl) -> None:
    lines = check("http://127.0.0.1:1", TOKEN, database_url)
    assert {line.split(": ")[0] for line in lines} == ALL


def test_a_database_that_is_not_there_is_an_error(database_url: DatabaseUrl) -> None:
    with pytest.raises(psycopg.OperationalError, match="nowhere"):
        check("http://127.0.0.1:1", TOKEN, "postgresql:///postgres?host=/nowhere")


def test_of_times_milliseconds_are_enough(peer: Any, database_url: DatabaseUrl) -> None:
    def shorten(user: Any) -> object:
        moment = datetime.fromisoformat(user["created_at"])
        return {**user, "created_at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")}

    replace(peer, "GET", USER, read(shorten))
    assert try_out(peer.app, database_url) == {}
