"""A sound peer with one defect: a handler that does a single thing wrong, and the parts of the contract it breaks."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import asyncpg
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

Handler = Callable[[Any, Request], Awaitable[Response]]
"""A route's handler; it is given the module of the sound peer, too."""

SELECT = "select id, email, display_name, is_active, created_at from users"
UPDATE = "update users set version = version + 1, updated_at = now(), display_name = $1"


class Defect(NamedTuple):
    """A handler in place of a route's own, and the names of the parts that must tell of it."""

    method: str
    path: str
    handler: Handler
    parts: set[str]


def content(response: Response) -> Any:
    """The JSON of an answer."""
    return json.loads(bytes(response.body))


def answering(body: str, status: int = 200, media_type: str = "application/json") -> Handler:
    """The same for whatever is asked."""

    async def handle(_: Any, __: Request) -> Response:
        return Response(body, status, media_type=media_type)

    return handle


def changing(name: str, change: Callable[[Any], object]) -> Handler:
    """What the sound handler of this name answers, changed; its headers are lost."""

    async def handle(sound: Any, request: Request) -> Response:
        response = await getattr(sound, name)(request)
        return JSONResponse(change(content(response)), response.status_code)

    return handle


def patching(statement: str) -> Handler:
    """A patch by this statement, of the name and the id."""

    async def handle(sound: Any, request: Request) -> Response:
        name = (await request.json())["display_name"]
        await request.state.pool.execute(statement, name, request.path_params["id"])
        return await sound.get_user(request)

    return handle


async def read_as_text(sound: Any, request: Request) -> Response:
    """The right JSON under a wrong name."""
    return Response((await sound.get_user(request)).body, media_type="text/plain")


async def list_by_offset(sound: Any, request: Request) -> Response:
    """Pages that shift when a user goes away."""
    await sound.list_users(request)  # which refuses bad limits
    limit = int(request.query_params.get("limit", 100))
    start = int(request.query_params.get("cursor", 0))
    rows = await request.state.pool.fetch(f"{SELECT} order by id limit $1 offset $2", limit + 1, start)
    users = [sound.to_json(row) for row in rows[:limit]]
    return JSONResponse({"users": users, "next_cursor": str(start + limit) if len(rows) > limit else None})


async def list_any_number(sound: Any, request: Request) -> Response:
    """A limit that is too large is quietly made smaller."""
    if int(request.query_params.get("limit", 100)) > 1000:
        request.scope["query_string"] = b"limit=1000"
    return await sound.list_users(Request(request.scope))


async def patch_later(sound: Any, request: Request) -> Response:
    """Answered before it is done."""
    change = await request.json()
    user = content(await sound.get_user(request))

    async def apply() -> None:
        await asyncio.sleep(0.02)
        await request.state.pool.execute(f"{UPDATE} where id = $2", change["display_name"], user["id"])

    return JSONResponse({**user, **change}, background=BackgroundTask(apply))


async def create_as_typed(sound: Any, request: Request) -> Response:
    """The email is shown in whatever case it came, and stored so where the table lets it."""
    response = await sound.create_user(request)
    user = {**content(response), "email": (await request.json())["email"]}
    query = "update users set email = $1 where id = $2"
    with suppress(asyncpg.CheckViolationError):
        await request.state.pool.execute(query, user["email"], user["id"])
    return JSONResponse(user, 201, {"Location": response.headers["location"]})


async def create_again(sound: Any, request: Request) -> Response:
    """A taken email is taken over."""
    try:
        return await sound.create_user(request)
    except asyncpg.UniqueViolationError:
        return JSONResponse({}, 201)


async def create_the_refused(sound: Any, request: Request) -> Response:
    """Refused, and stored all the same where the table lets it."""
    try:
        return await sound.create_user(request)
    finally:
        query = "insert into users (email, hashed_password) values ($1, '') on conflict do nothing"
        with suppress(asyncpg.CheckViolationError):
            await request.state.pool.execute(query, (await request.json())["email"].lower())


async def import_any_email(_: Any, request: Request) -> Response:
    """Lines are stored unread."""
    users = [json.loads(line) for line in (await request.body()).splitlines()]
    for user in users:
        query = "insert into users (email, hashed_password, display_name) values ($1, $2, $3)"
        values = user["email"].lower(), user["hashed_password"], user.get("display_name")
        await request.state.pool.execute(query, *values)
    return JSONResponse({"created": len(users)})


USER, USERS, LOOKUP = "/users/{id:int}", "/users", "/users/lookup"

read = partial(changing, "get_user")
list_ = partial(changing, "list_users")
look_up = partial(changing, "look_up_users")

DEFECTS: dict[str, Defect] = {
    "no body": Defect("GET", USER, answering(""), {"reads", "missing"}),
    "null for nobody": Defect("GET", USER, answering("null"), {"reads", "missing"}),
    "the hash shown": Defect("GET", USER, read(lambda user: user | {"hashed_password": ""}), {"reads"}),
    "another user": Defect("GET", USER, read(lambda user: user | {"id": user["id"] + 1}), {"reads"}),
    "an id as text": Defect("GET", USER, read(lambda user: user | {"id": str(user["id"])}), {"reads"}),
    "no offset in times": Defect(
        "GET", USER, read(lambda user: user | {"created_at": user["created_at"][:-6]}), {"reads"}
    ),
    "text for JSON": Defect("GET", USER, read_as_text, {"reads"}),
    "one user skipped": Defect(
        "GET", USERS,
        list_(lambda page: page | {"users": page["users"][page["users"][0]["id"] > 1 :]}),
        {"pages", "last_page"},
    ),
    "offset for keyset": Defect("GET", USERS, list_by_offset, {"last_page"}),
    "a cursor for ever": Defect(
        "GET", USERS, list_(lambda page: page | {"next_cursor": str(page["users"][-1]["id"])}), {"last_page"}
    ),
    "any limit": Defect("GET", USERS, list_any_number, {"limits"}),
    "the order of the table": Defect(
        "POST", LOOKUP,
        look_up(lambda found: {"users": sorted(found["users"], key=lambda user: user["id"] if user else 0)}),
        {"lookup"},
    ),
    "no nulls": Defect(
        "POST", LOOKUP, look_up(lambda found: {"users": [user for user in found["users"] if user]}), {"lookup"}
    ),
    "an answer before the commit": Defect("PATCH", USER, patch_later, {"patch", "durability"}),
    "everybody patched": Defect(
        "PATCH", USER, patching(f"{UPDATE} where email like 'contract-%' and $2 > 0"), {"patch"}
    ),
    "the old version": Defect(
        "PATCH", USER, patching("update users set display_name = $1, updated_at = now() where id = $2"), {"patch"}
    ),
    "the old time": Defect(
        "PATCH", USER, patching("update users set display_name = $1, version = version + 1 where id = $2"), {"patch"}
    ),
    "a user of air": Defect("POST", USERS, answering("{}", 201), {"creation", "refusals"}),
    "the email as typed": Defect("POST", USERS, create_as_typed, {"creation"}),
    "no location": Defect("POST", USERS, changing("create_user", lambda user: user), {"creation"}),
    "a taken email": Defect("POST", USERS, create_again, {"refusals"}),
    "the refused stored": Defect("POST", USERS, create_the_refused, {"refusals"}),
    "an export of nobody": Defect(
        "GET", "/users/export", answering("", media_type="application/x-ndjson"), {"export"}
    ),
    "an export as JSON": Defect("GET", "/users/export", answering("[]"), {"export"}),
    "an import of nobody": Defect("POST", "/users/import", answering('{"created": 3}'), {"imports"}),
    "an import unread": Defect("POST", "/users/import", import_any_email, {"imports"}),
}  # fmt: skip
