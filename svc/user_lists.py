"""Many users: GET /users and POST /users/lookup."""

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Protocol

import msgspec
from msgspec import UNSET, Meta, Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.batch import Limits, ReadLane
from svc.headers import read_preference
from svc.paging import link_next, read_cursor, write_cursor
from svc.sql import Queries
from svc.structs import Id, ListUsers, LookUpUsers, StoredUser, User, UserFields, UserPage, UsersFound
from svc.web import Header, Operation, answer, encode, invalid_body, invalid_query, read_body, read_query


class Position(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a page of a list ends: what its order looks at, of its last user. All null: before the first."""

    id: Id | None = None
    email: Annotated[str, Meta(pattern="^[^\x00]*$")] | None = None  # of any length: it is one that is stored
    created_at: datetime | None = None


class FoundById(Struct, frozen=True, gc=False):
    """A user that was looked up, as JSON."""

    id: int
    user: str


class FoundByEmail(Struct, frozen=True, gc=False):
    """The same by email."""

    email: str
    user: str


class Page(Struct, frozen=True):
    """The users of a page as JSON, one a line, and their profiles where they were asked for."""

    users: str | None
    profiles: str | None


class UserListQueries(Queries, Protocol, file="user_lists.sql"):
    """queries/user_lists.sql"""

    async def look_up_users_by_id(self, *, ids: list[int]) -> list[FoundById]: ...
    async def look_up_users_by_email(self, *, emails: list[str]) -> list[FoundByEmail]: ...
    async def get_user_by_email(self, *, email: str, with_profile: bool) -> StoredUser | None: ...
    async def get_users_by_email(self, *, emails: list[str]) -> list[StoredUser]: ...
    async def count_users(self, *, filter: ListUsers) -> int: ...
    async def estimate_users(self, *, filter: ListUsers) -> Raw: ...
    async def list_users_by_id(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> Page: ...
    async def list_users_by_id_desc(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> Page: ...
    async def list_users_by_email(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> Page: ...
    async def list_users_by_email_desc(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> Page: ...
    async def list_users_by_created_at(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> Page: ...
    async def list_users_by_created_at_desc(
        self, *, filter: ListUsers, after: Position, limit: int, with_profile: bool
    ) -> Page: ...


class EmailLane(ReadLane[str, StoredUser]):
    """Point reads by email, without profiles."""

    def __init__(self, users: UserListQueries, limits: Limits) -> None:
        super().__init__(
            limits,
            one=lambda email: users.get_user_by_email(email=email, with_profile=False),
            many=lambda emails: users.get_users_by_email(emails=emails),
            key=attrgetter("email"),
        )


async def list_users(request: Request, users: UserListQueries, by_email: EmailLane) -> Response:
    """A page of users, and the way to the next one."""
    query = read_query(request, ListUsers)
    found = await find_page(users, by_email, query)
    lines = found.users.split("\n") if found.users else []
    cursor = None
    if len(lines) > query.limit:
        del lines[query.limit :]
        cursor = write_cursor(describe_list(query), find_position(query, lines[-1]))
    headers: list[Header] = [(b"link", link_next(request, cursor).encode("latin-1"))] if cursor else []
    count = None
    if preferred := read_preference(request):
        count = await count_users(users, query, preferred)
        headers += [
            (b"preference-applied", f"count={preferred}".encode()),
            (b"content-range", f"*/{count}".encode()),
        ]
    page = choose_fields(lines, found.profiles, query.fields) if query.fields else join(lines)
    return answer(UserPage(page, cursor, count), headers=headers)


async def find_page(users: UserListQueries, by_email: EmailLane, query: ListUsers) -> Page:
    """The page's users, and one more where there is a next page."""
    after = read_position(query)
    if query.email:
        return await find_by_email(users, by_email, query, query.email)
    orders = {
        "id": users.list_users_by_id,
        "-id": users.list_users_by_id_desc,
        "email": users.list_users_by_email,
        "-email": users.list_users_by_email_desc,
        "created_at": users.list_users_by_created_at,
        "-created_at": users.list_users_by_created_at_desc,
    }
    return await orders[query.sort](
        filter=query, after=after, limit=query.limit + 1, with_profile=query.wants_profile
    )


async def find_by_email(users: UserListQueries, by_email: EmailLane, query: ListUsers, email: str) -> Page:
    """At most one user, if the other filters let it through."""
    if query.wants_profile:
        user = await users.get_user_by_email(email=email, with_profile=True)
    else:
        user = await by_email.get(email)
    if user is None or not passes(query, user):
        return Page(None, None)
    public = msgspec.structs.replace(user.public(), profile=None)
    profile = bytes(user.profile).decode() if user.profile is not None else None
    return Page(encode(public).decode(), profile)


def passes(query: ListUsers, user: StoredUser) -> bool:
    """Whether the filters of a list, but for the email, let a user through."""
    return (
        (query.is_active is None or user.is_active == query.is_active)
        and (query.created_from is None or user.created_at >= query.created_from)
        and (query.created_to is None or user.created_at < query.created_to)
    )


def choose_fields(lines: list[str], profiles: str | None, fields: UserFields) -> list[dict[str, Raw]]:
    """The chosen fields of each user of a page."""
    found = [msgspec.json.decode(line, type=dict[str, Raw]) for line in lines]
    if profiles:
        for user, profile in zip(found, profiles.split("\n"), strict=False):
            user["profile"] = Raw(profile)
    return [{field: user[field] for field in fields} for user in found]


async def count_users(users: UserListQueries, query: ListUsers, preferred: str) -> int:
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


def describe_list(query: ListUsers) -> object:
    """What a cursor is tied to."""
    return query.sort, query.is_active, query.created_from, query.created_to


def find_position(query: ListUsers, line: str) -> Position:
    """Where a page ended: at the user of this line."""
    last = msgspec.json.decode(line, type=User)
    by_email = query.sort.endswith("email")
    return Position(
        id=None if by_email else last.id,
        email=last.email if by_email else None,
        created_at=last.created_at if query.sort.endswith("created_at") else None,
    )


def read_position(query: ListUsers) -> Position:
    """Where the page before ended. Raises Problem 422 for a cursor that is not of this list."""
    if query.cursor is None:
        return Position()
    position = None if query.email else read_cursor(query.cursor, describe_list(query), Position)
    if position is None:
        raise invalid_query({"cursor": "Not a cursor of this list: sort and filters must stay the same"})
    return position


async def look_up_users(request: Request, users: UserListQueries) -> Response:
    """Many users by their ids or emails, in the order asked; null where there is none."""
    asked = await read_body(request, LookUpUsers)
    if asked.ids is not UNSET and asked.emails is UNSET:
        by_id = {found.id: found.user for found in await users.look_up_users_by_id(ids=asked.ids)}
        found = [by_id.get(id_, "null") for id_ in asked.ids]
    elif asked.emails is not UNSET and asked.ids is UNSET:
        emails = list[str](asked.emails)
        by_email = {found.email: found.user for found in await users.look_up_users_by_email(emails=emails)}
        found = [by_email.get(email, "null") for email in emails]
    else:
        raise invalid_body([((), "Expected ids or emails, one of the two")])
    return answer(UsersFound(join(found)))


def join(users: Sequence[str]) -> Raw:
    """Users, each as JSON, as one JSON array."""
    return Raw(f"[{','.join(users)}]")


ROUTES = [
    Operation("GET", "/users", list_users, "users:read", UserPage),
    Operation("POST", "/users/lookup", look_up_users, "users:read", User),
]
