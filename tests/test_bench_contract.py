"""The benchmark's contract test: it passes whoever does the job, and names what one single defect breaks."""

import asyncio
import hashlib
import importlib
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
import pytest
import uvicorn
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.contract import READING, WRITING, check
from svc.config import Config, DatabaseUrl
from tests.conftest import Service, make_key

Sql = Callable[..., list[tuple[Any, ...]]]
Handler = Callable[[Request], Awaitable[Response]]

TOKEN = "bl_of_the_peer"
PEER = "bench.peers.starlette_asyncpg"
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


@pytest.fixture
def url(database_url: DatabaseUrl, sql: Sql) -> DatabaseUrl:
    """A database with a few users, whose commits wait for the disk as in the benchmark."""
    ((name,),) = sql("select current_database()")
    sql(f"alter database {name} set synchronous_commit = on")
    sql(
        "insert into users (email, hashed_password, display_name)"
        " select 'user' || n || '@example.com', 'no hash', 'User ' || n from generate_series(1, 5) as n"
    )
    return database_url


@pytest.fixture
def peer(url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a peer that keeps the contract, with its `app`."""
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("KEY_HASH", hashlib.sha256(TOKEN.encode()).hexdigest())
    for name, value in {"POOL_SIZE": 4, "HASH_MEMORY": 8, "HASH_PASSES": 1}.items():
        monkeypatch.setenv(name, str(value))
    return importlib.reload(importlib.import_module(PEER))


def try_out(app: ASGIApp, url: str, hash_passes: int = 1) -> dict[str, str]:
    """What the contract test says of an app: its lines by the part of the contract."""
    with serve(app) as base_url:
        lines = check(base_url, TOKEN, url, hash_memory=8, hash_passes=hash_passes)
    return dict(line.split(": ", 1) for line in lines)


def test_the_service_keeps_the_contract(url: DatabaseUrl, config: Config) -> None:
    with Service(config) as service:
        assert check(service.url, make_key(config), url, hash_memory=8, hash_passes=1) == []


def test_a_peer_keeps_it_and_the_table_stays_as_it_was(peer: Any, url: DatabaseUrl, sql: Sql) -> None:
    before = sql("select * from users order by id")
    assert try_out(peer.app, url) == {}
    assert sql("select * from users order by id") == before


SELECT = "select id, email, display_name, is_active, created_at from users"
UPDATE = "update users set version = version + 1, updated_at = now(), display_name = $1"


def content(response: Response) -> Any:
    """The JSON of an answer."""
    return json.loads(bytes(response.body))


def changing(handler: str, change: Callable[[Any], object]) -> Callable[[Any], Handler]:
    """A handler of the sound peer whose JSON is changed, and whose headers are lost."""

    def make(sound: Any) -> Handler:
        async def handle(request: Request) -> Response:
            response = await getattr(sound, handler)(request)
            return JSONResponse(change(content(response)), response.status_code)

        return handle

    return make


def list_by_offset(sound: Any) -> Handler:
    async def handle(request: Request) -> Response:
        limit, start = (int(request.query_params.get(name, 0)) for name in ("limit", "cursor"))
        await sound.list_users(request)  # which refuses bad limits
        rows = await request.state.pool.fetch(f"{SELECT} order by id limit $1 offset $2", limit or 100, start)
        more = (
            str(start + len(rows))
            if await request.state.pool.fetchval("select count(*) > $1 from users", start + len(rows))
            else None
        )
        return JSONResponse({"users": [sound.to_json(row) for row in rows], "next_cursor": more})

    return handle


def patch_later(sound: Any) -> Handler:
    async def handle(request: Request) -> Response:
        change = await request.json()
        user = content(await sound.get_user(request))

        async def apply() -> None:
            await asyncio.sleep(0.02)
            await request.state.pool.execute(f"{UPDATE} where id = $2", change["display_name"], user["id"])

        return JSONResponse({**user, **change}, background=BackgroundTask(apply))

    return handle


def patching(statement: str) -> Callable[[Any], Handler]:
    """A patch by this statement, of the name and the id."""

    def make(sound: Any) -> Handler:
        async def handle(request: Request) -> Response:
            name = (await request.json())["display_name"]
            await request.state.pool.execute(statement, name, request.path_params["id"])
            return await sound.get_user(request)  # type: ignore[no-any-return]

        return handle

    return make


def create_as_typed(sound: Any) -> Handler:
    async def handle(request: Request) -> Response:
        response = await sound.create_user(request)
        user = {**content(response), "email": (await request.json())["email"]}
        query = "update users set email = $1 where id = $2"
        await request.state.pool.execute(query, user["email"], user["id"])
        return JSONResponse(user, 201, {"Location": response.headers["location"]})

    return handle


def create_whatever_comes(sound: Any) -> Handler:
    async def handle(request: Request) -> Response:
        try:
            return await sound.create_user(request)  # type: ignore[no-any-return]
        finally:
            query = "insert into users (email, hashed_password) values ($1, '') on conflict do nothing"
            await request.state.pool.execute(query, (await request.json())["email"].lower())

    return handle


def answering(response: Response) -> Callable[[Any], Handler]:
    """Whatever is asked."""

    def make(_: Any) -> Handler:
        async def handle(_: Request) -> Response:
            return response

        return handle

    return make


USER, USERS = "/users/{id:int}", "/users"
DEFECTS: dict[str, tuple[str, str, Callable[[Any], Handler], set[str]]] = {
    "200 and nothing": ("GET", USER, answering(Response()), {"reads", "missing"}),
    "the hash": ("GET", USER, changing("get_user", lambda user: {**user, "hashed_password": ""}), {"reads"}),
    "another user": ("GET", USER, changing("get_user", lambda user: {**user, "id": user["id"] + 1}), {"reads"}),
    "an id as text": ("GET", USER, changing("get_user", lambda user: {**user, "id": str(user["id"])}), {"reads"}),
    "a time without offset": (
        "GET", USER, changing("get_user", lambda user: {**user, "created_at": user["created_at"][:-6]}), {"reads"},
    ),
    "404 as null": ("GET", USER, answering(JSONResponse(None)), {"reads", "missing"}),
    "one user skipped": (
        "GET", USERS,
        changing("list_users", lambda page: {**page, "users": page["users"][page["users"][0]["id"] > 1 :]}),
        {"pages", "last_page"},
    ),
    "offset": ("GET", USERS, list_by_offset, {"last_page"}),
    "a cursor for ever": (
        "GET", USERS, changing("list_users", lambda page: {**page, "next_cursor": str(page["users"][-1]["id"])}),
        {"last_page"},
    ),
    "the order of a look-up": (
        "POST", "/users/lookup",
        changing("look_up_users", lambda found: {"users": sorted(found["users"], key=lambda u: u["id"] if u else 0)}),
        {"lookup"},
    ),
    "nulls of a look-up": (
        "POST", "/users/lookup",
        changing("look_up_users", lambda found: {"users": [user for user in found["users"] if user]}),
        {"lookup"},
    ),
    "an answer before the commit": ("PATCH", USER, patch_later, {"patch", "durability"}),
    "a patch of everybody": ("PATCH", USER, patching(f"{UPDATE} where email like 'contract-%' and $2 > 0"), {"patch"}),
    "no version": ("PATCH", USER, patching("update users set display_name = $1 where id = $2"), {"patch"}),
    "the email as typed": ("POST", USERS, create_as_typed, {"creation", "refusals"}),
    "any email": ("POST", USERS, create_whatever_comes, {"refusals"}),
    "no location": ("POST", USERS, changing("create_user", lambda user: user), {"creation"}),
    "an export of nobody": (
        "GET", "/users/export", answering(Response("", media_type="application/x-ndjson")), {"export"},
    ),
    "an import of nobody": ("POST", "/users/import", answering(JSONResponse({"created": 3})), {"imports"}),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_single_defect_is_named(defect: str, peer: Any, url: DatabaseUrl, sql: Sql) -> None:
    before = sql("select * from users order by id")
    method, path, make, parts = DEFECTS[defect]
    peer.app.router.routes.insert(0, Route(path, make(peer), methods=[method]))
    found = try_out(peer.app, url).keys()
    assert parts <= found <= parts | {"refusals"}  # into which a late change may fall
    assert sql("select * from users order by id") == before


def test_a_commit_that_does_not_wait_for_the_disk_is_named(
    peer: Any, url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{url}&synchronous_commit=off")
    assert try_out(peer.app, url).keys() == {"durability"}


def test_a_key_that_nobody_checks_is_named(peer: Any, url: DatabaseUrl) -> None:
    peer.app.user_middleware.clear()
    assert try_out(peer.app, url).keys() == {"keys"}


def test_a_cheaper_hash_than_was_asked_is_named(peer: Any, url: DatabaseUrl) -> None:
    assert try_out(peer.app, url, hash_passes=2).keys() == {"creation"}


def test_a_server_that_answers_nothing_fails_every_part(peer: Any, url: DatabaseUrl) -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        await (
            Response()(scope, receive, send) if scope["type"] == "http" else peer.app(scope, receive, send)
        )

    assert try_out(nothing, url).keys() == ALL


def test_a_server_that_is_not_there_fails_every_part(url: DatabaseUrl, sql: Sql) -> None:
    before = sql("select * from users order by id")
    lines = check("http://127.0.0.1:1", TOKEN, url)
    assert {line.split(": ")[0] for line in lines} == ALL
    assert sql("select * from users order by id") == before


def test_a_database_that_is_not_there_is_an_error(url: DatabaseUrl) -> None:
    with pytest.raises(psycopg.OperationalError, match="nowhere"):
        check("http://127.0.0.1:1", TOKEN, "postgresql:///postgres?host=/nowhere")


def test_of_times_milliseconds_are_enough(peer: Any, url: DatabaseUrl) -> None:
    def shorten(user: Any) -> object:
        moment = datetime.fromisoformat(user["created_at"])
        return {**user, "created_at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")}

    route = Route(USER, changing("get_user", shorten)(peer), methods=["GET"])
    peer.app.router.routes.insert(0, route)
    assert try_out(peer.app, url) == {}
