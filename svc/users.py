"""The users: /users and /users/{id}."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from hashlib import blake2b
from typing import Protocol
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET, Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.errors import Problem, broken_constraint
from svc.headers import Retry, etag, is_known, read_preference, read_retry, read_versions
from svc.security import Passwords
from svc.sql import Queries
from svc.structs import (
    CreateUser,
    GetUser,
    Id,
    ListUsers,
    StoredUser,
    Text,
    UpdateUser,
    User,
    UserFields,
    UserPage,
)
from svc.web import (
    MERGE_PATCH_TYPES,
    Operation,
    answer,
    invalid_query,
    read_body,
    read_id,
    read_query,
)


class Position(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a page of a list ends: what its order looks at, of its last user. All null: before the first."""

    id: Id | None = None
    email: Text | None = None
    created_at: datetime | None = None


class FirstAnswer(Struct, frozen=True):
    """What the first request was answered."""

    user_id: int
    email: str
    display_name: str | None
    created_at: datetime
    hashed_password: str
    same_body: bool


class UserQueries(Queries, Protocol, file="users.sql"):
    """queries/users.sql"""

    async def create_user(self, *, new: CreateUser, hashed_password: str) -> StoredUser: ...
    async def create_user_once(
        self, *, new: CreateUser, hashed_password: str, retry: Retry
    ) -> StoredUser | None: ...
    async def get_first_answer(self, *, retry: Retry) -> FirstAnswer | None: ...
    async def get_user(self, *, id: int, with_profile: bool) -> StoredUser | None: ...
    async def update_user(
        self, *, id: int, versions: list[int] | None, change: UpdateUser, set_display_name: bool
    ) -> StoredUser | None: ...
    async def delete_user(self, *, id: int, versions: list[int] | None) -> int: ...
    async def count_users(self, *, filter: ListUsers) -> int: ...
    async def estimate_users(self, *, filter: ListUsers) -> str: ...
    async def list_users_by_exact_email(self, *, filter: ListUsers, with_profile: bool) -> list[User]: ...
    async def list_users_by_id(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> list[User]: ...
    async def list_users_by_id_desc(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> list[User]: ...
    async def list_users_by_email(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> list[User]: ...
    async def list_users_by_email_desc(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> list[User]: ...
    async def list_users_by_created_at(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> list[User]: ...
    async def list_users_by_created_at_desc(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> list[User]: ...


async def create_user(request: Request, users: UserQueries, passwords: Passwords) -> Response:
    """Registers a user: 201 and where it is; the same again for a retry with the same Idempotency-Key."""
    new = await read_body(request, CreateUser)
    retry = read_retry(request, [str(new.email), new.display_name, new.profile, new.referred_by])
    if retry:
        user = await create_user_once(users, passwords, new, retry)
    else:
        user = await users.create_user(new=new, hashed_password=await passwords.hash(new.password))
    return answer_user(user, status=201, headers={"Location": f"/users/{user.id}"})


async def create_user_once(
    users: UserQueries, passwords: Passwords, new: CreateUser, retry: Retry
) -> StoredUser:
    """The user that the first request with this key made, this one perhaps. Raises Problem 409 and 422."""
    if first := await users.get_first_answer(retry=retry):
        return await repeat_answer(passwords, new, first)
    hashed = await passwords.hash(new.password)
    if user := await users.create_user_once(new=new, hashed_password=hashed, retry=retry):
        return user
    if first := await users.get_first_answer(retry=retry):  # it was made while we hashed
        return await repeat_answer(passwords, new, first)
    raise broken_constraint("users_email_key")


async def repeat_answer(passwords: Passwords, new: CreateUser, first: FirstAnswer) -> StoredUser:
    """The user as it was first answered. Raises Problem 422 where the body is another one now."""
    if not first.same_body or not await passwords.verify(first.hashed_password, new.password):
        raise Problem(422, "This Idempotency-Key came with another body before", code="key-reused")
    return StoredUser(first.user_id, first.email, first.display_name, True, first.created_at, None, 1)


async def get_user(request: Request, users: UserQueries) -> Response:
    """One user, or 304 where the client has this version."""
    fields = read_query(request, GetUser).fields
    user = await users.get_user(id=read_id(request), with_profile=wants_profile(fields))
    if user is None:
        raise no_user()
    if is_known(request, user.version):
        return Response(status_code=304, headers={"ETag": etag(user.version)})
    return answer_user(user, fields)


async def update_user(request: Request, users: UserQueries) -> Response:
    """Changes the fields that are given (RFC 7396), if the client's version is the current one."""
    id_, versions = read_id(request), read_versions(request)
    change = await read_body(request, UpdateUser, MERGE_PATCH_TYPES)
    if change == UpdateUser():
        user = await users.get_user(id=id_, with_profile=False)
        user = user if user and (versions is None or user.version in versions) else None
    else:
        user = await users.update_user(
            id=id_, versions=versions, change=change, set_display_name=change.display_name is not UNSET
        )
    if user is None:
        raise await why_unchanged(users, id_)
    return answer_user(user)


async def delete_user(request: Request, users: UserQueries) -> Response:
    """Removes a user: 204."""
    id_ = read_id(request)
    if not await users.delete_user(id=id_, versions=read_versions(request)):
        raise await why_unchanged(users, id_)
    return Response(status_code=204)


async def list_users(request: Request, users: UserQueries) -> Response:
    """A page of users, and the way to the next one."""
    query = read_query(request, ListUsers)
    found = await find_page(users, query)
    page, more = found[: query.limit], len(found) > query.limit
    cursor = write_cursor(query, page[-1]) if more else None
    headers = {"Link": link_next(request, cursor)} if cursor else {}
    count = None
    if preferred := read_preference(request):
        headers["Preference-Applied"] = f"count={preferred}"
        count = await count_users(users, query, preferred)
        headers["Content-Range"] = f"*/{count}"
    return answer(UserPage(choose_fields(page, query.fields), cursor, count), headers=headers)


async def find_page(users: UserQueries, query: ListUsers) -> list[User]:
    """The page's users, and one more where there is a next page."""
    with_profile = wants_profile(query.fields)
    after = read_cursor(query)
    if query.email:
        return await users.list_users_by_exact_email(filter=query, with_profile=with_profile)
    orders = {
        "id": users.list_users_by_id,
        "-id": users.list_users_by_id_desc,
        "email": users.list_users_by_email,
        "-email": users.list_users_by_email_desc,
        "created_at": users.list_users_by_created_at,
        "-created_at": users.list_users_by_created_at_desc,
    }
    return await orders[query.sort](
        filter=query, after=after, limit=query.limit + 1, with_profile=with_profile
    )


async def count_users(users: UserQueries, query: ListUsers, preferred: str) -> int:
    """How many users the filters let through, on all pages together."""
    if preferred == "exact":
        return await users.count_users(filter=query)
    plan = msgspec.json.decode(await users.estimate_users(filter=query), type=list[Explained])
    return plan[0].plan.rows


class PlanNode(Struct, rename={"rows": "Plan Rows"}):
    """The top of a plan."""

    rows: int


class Explained(Struct, rename={"plan": "Plan"}):
    """What `explain (format json)` answers."""

    plan: PlanNode


def answer_user(
    user: StoredUser,
    fields: UserFields | None = None,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """A user, or the chosen fields of it, with its version."""
    public = user.public()
    content = choose_fields([public], fields)[0] if fields else public
    return answer(content, status, {"ETag": etag(user.version), **(headers or {})})


def choose_fields(users: list[User], fields: UserFields | None) -> list[User] | list[dict[str, object]]:
    """The users, or the chosen fields of each."""
    if fields is None:
        return users
    return [{field: getattr(user, field) for field in fields} for user in users]


def wants_profile(fields: UserFields | None) -> bool:
    """A profile may be large, so it is read only for those who ask."""
    return fields is not None and "profile" in fields


def no_user() -> Problem:
    """404."""
    return Problem(404, "There is no user with this id")


async def why_unchanged(users: UserQueries, id_: int) -> Problem:
    """Why a change found no row: 412 where the user is there in another version, else 404."""
    if await users.get_user(id=id_, with_profile=False) is None:
        return no_user()
    return Problem(412, "The user has changed since", code="changed-since")


def write_cursor(query: ListUsers, last: User) -> str:
    """Where a page ended: opaque, and of no use with another order or other filters."""
    position = Position(
        id=None if query.sort.endswith("email") else last.id,
        email=last.email if query.sort.endswith("email") else None,
        created_at=last.created_at if query.sort.endswith("created_at") else None,
    )
    return seal(query, msgspec.msgpack.encode(position))


def read_cursor(query: ListUsers) -> Position:
    """The position that a cursor holds. Raises Problem 422 for one that is not of this list."""
    if query.cursor is None:
        return Position()
    try:
        signed = urlsafe_b64decode(query.cursor.encode("ascii") + b"==")
        content = signed[8:]
        if query.cursor == seal(query, content) and not query.email:
            return msgspec.msgpack.decode(content, type=Position)
    except (ValueError, RecursionError, msgspec.DecodeError):  # not ASCII, not base64, no position
        pass
    raise invalid_query({"cursor": "Not a cursor of this list: sort and filters must stay the same"})


def seal(query: ListUsers, content: bytes) -> str:
    """A cursor that is tied to its list. No secret is in it: a forged one shows nothing that paging hides."""
    list_ = repr((query.sort, query.is_active, query.created_from, query.created_to)).encode()
    seal_ = blake2b(content, digest_size=8, key=blake2b(list_).digest()).digest()
    return urlsafe_b64encode(seal_ + content).rstrip(b"=").decode()


def link_next(request: Request, cursor: str) -> str:
    """`Link` to the next page (RFC 8288), relative, so that it holds behind any proxy."""
    parameters = {**request.query_params, "cursor": cursor}
    return f'<{request.url.path}?{urlencode(parameters)}>; rel="next"'


ROUTES = [
    Operation("GET", "/users/{id}", get_user, "users:read", User),
    Operation("PATCH", "/users/{id}", update_user, "users:write", User),
    Operation("DELETE", "/users/{id}", delete_user, "users:write"),
    Operation("POST", "/users", create_user, "users:write", User, open_if="open_registration"),
    Operation("GET", "/users", list_users, "users:read", UserPage),
]
