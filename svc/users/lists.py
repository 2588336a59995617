"""Many users: GET /users and POST /users/lookup."""

from datetime import datetime
from typing import Annotated, Protocol

import msgspec
from msgspec import UNSET, Meta, Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.http.answers import answer
from svc.http.fields import Id
from svc.http.headers import read_preference
from svc.http.operations import Operation, ShortCut
from svc.http.paging import link_next, read_cursor, write_cursor
from svc.http.parsing import invalid_body, invalid_query, read_body, read_plain_query, read_query
from svc.postgres.batching import Lane, Limits, ReadLane
from svc.postgres.queries import Queries
from svc.users.rows import Ids, StoredUser
from svc.users.structs import ListUsers, LookUpUsers, User, UserFields, UserPage, UsersFound


class Position(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a page of a list ends: what its order looks at, of its last user. All null: before the first."""

    id: Id | None = None
    email: Annotated[str, Meta(pattern="^[^\x00]*$")] | None = None  # of any length: it is one that is stored
    created_at: datetime | None = None


class AskedPage(Struct, frozen=True):
    """A page that is asked for, in these words."""

    query: ListUsers
    path: str
    query_string: bytes


class UserListQueries(Queries, Protocol, file="user_lists.sql"):
    """queries/user_lists.sql"""

    async def look_up_users_by_id(self, *, ids: Ids) -> list[User]: ...
    async def look_up_users_by_email(self, *, emails: list[str]) -> list[User]: ...
    async def get_user_by_email(self, *, email: str, with_profile: bool) -> StoredUser | None: ...
    async def get_users_by_email(self, *, emails: list[str]) -> list[StoredUser]: ...
    async def count_users(self, *, filter: ListUsers) -> int: ...
    async def estimate_users(self, *, filter: ListUsers) -> Raw: ...
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


class EmailLane(ReadLane[str, StoredUser]):
    """Point reads by email, without profiles."""

    def __init__(self, users: UserListQueries, limits: Limits) -> None:
        super().__init__(
            limits,
            one=lambda email: users.get_user_by_email(email=email, with_profile=False),
            many=lambda emails: find_users_by_email(users, emails),
        )


class PageLane(Lane[AskedPage, list[User]]):
    """Pages, each a statement of its own, a few at a time."""

    def __init__(self, users: UserListQueries, limits: Limits) -> None:
        super().__init__(limits.of_single(), lambda asked: find_page(users, asked.query))


class LookUpLane(Lane[LookUpUsers, list[User]]):
    """Look-ups, the same."""

    def __init__(self, users: UserListQueries, limits: Limits) -> None:
        super().__init__(limits.of_single(), lambda asked: find_many(users, asked))


async def list_users(
    request: Request, users: UserListQueries, by_email: EmailLane, pages: PageLane
) -> Response:
    """A page of users, and the way to the next one."""
    query = read_query(request, ListUsers)
    asked = AskedPage(query, request.scope["raw_path"].decode(), request.scope["query_string"])
    page: list[User] | None
    if query.email:
        page = await find_by_email(users, by_email, query, query.email)
    else:
        page = await pages.get(asked)
    counted = None
    if preferred := read_preference(request):
        counted = preferred, await count_users(users, query, preferred)
    return answer_page(asked, page, counted)


def cut_to_page(pages: PageLane) -> ShortCut[AskedPage, list[User]]:
    """The short cut of `GET /users?…`."""
    return ShortCut(read_page, pages.ask, answer_page)


def read_page(query_string: bytes) -> AskedPage | None:
    """What a plain query asks for; None for one that the handler must look at, as for an email."""
    query = read_plain_query(query_string, ListUsers)
    return AskedPage(query, "/users", query_string) if query and not query.email else None


def answer_page(
    asked: AskedPage, page: list[User] | None, counted: tuple[str, int] | None = None
) -> Response:
    """A page, the way to the next one, and how many there are on all of them: how counted, the number."""
    query, users = asked.query, page or []
    cursor, lines = None, b""
    if len(users) > query.limit:
        del users[query.limit :]
        cursor = write_cursor(describe_list(query), find_position(query, users[-1]))
        lines = f"link: {link_next(asked.path, asked.query_string, cursor)}\r\n".encode("latin-1")
    if counted:
        lines += f"preference-applied: count={counted[0]}\r\ncontent-range: */{counted[1]}\r\n".encode()
    shown = choose_fields(users, query.fields) if query.fields else users
    return answer(UserPage(shown, cursor, counted[1] if counted else None), lines=lines)


async def find_users_by_email(users: UserListQueries, emails: list[str]) -> dict[str, StoredUser]:
    """Several users by their emails."""
    return {user.email: user for user in await users.get_users_by_email(emails=emails)}


async def find_page(users: UserListQueries, query: ListUsers) -> list[User]:
    """The page's users, and one more where there is a next page."""
    orders = {
        "id": users.list_users_by_id,
        "-id": users.list_users_by_id_desc,
        "email": users.list_users_by_email,
        "-email": users.list_users_by_email_desc,
        "created_at": users.list_users_by_created_at,
        "-created_at": users.list_users_by_created_at_desc,
    }
    return await orders[query.sort](
        filter=query, after=read_position(query), limit=query.limit + 1, with_profile=query.wants_profile
    )


async def find_by_email(
    users: UserListQueries, by_email: EmailLane, query: ListUsers, email: str
) -> list[User]:
    """At most one user, if the other filters let it through. There is no next page, and so no cursor."""
    read_position(query)
    if query.wants_profile:
        user = await users.get_user_by_email(email=email, with_profile=True)
    else:
        user = await by_email.get(email)
    return [user.public()] if user and passes(query, user) else []


def passes(query: ListUsers, user: StoredUser) -> bool:
    """Whether the filters of a list, but for the email, let a user through."""
    if query.is_active not in (None, user.is_active):
        return False
    if query.created_from is None and query.created_to is None:
        return True
    created_at = datetime.fromisoformat(user.created_at)
    return (query.created_from is None or created_at >= query.created_from) and (
        query.created_to is None or created_at < query.created_to
    )


def choose_fields(users: list[User], fields: UserFields) -> list[dict[str, object]]:
    """The chosen fields of each user of a page."""
    return [{field: getattr(user, field) for field in fields} for user in users]


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


def find_position(query: ListUsers, last: User) -> Position:
    """Where a page ended: at this user."""
    by_email = query.sort.endswith("email")
    return Position(
        id=None if by_email else last.id,
        email=last.email if by_email else None,
        created_at=datetime.fromisoformat(last.created_at) if query.sort.endswith("created_at") else None,
    )


def read_position(query: ListUsers) -> Position:
    """Where the page before ended. Raises Problem 422 for a cursor that is not of this list."""
    if query.cursor is None:
        return Position()
    position = None if query.email else read_cursor(query.cursor, describe_list(query), Position)
    if position is None:
        raise invalid_query({"cursor": "Not a cursor of this list: sort and filters must stay the same"})
    return position


async def look_up_users(request: Request, look_ups: LookUpLane) -> Response:
    """Many users by their ids or emails, in the order asked; null where there is none."""
    asked = await read_body(request, LookUpUsers)
    if (asked.ids is UNSET) == (asked.emails is UNSET):
        raise invalid_body([((), "Expected ids or emails, one of the two")])
    found = await look_ups.get(asked)
    users = found or []
    if asked.ids is not UNSET:
        by_id = {user.id: user for user in users}
        return answer(UsersFound([*map(by_id.get, asked.ids)]))
    by_email = {user.email: user for user in users}
    return answer(UsersFound([by_email.get(email) for email in asked.emails or ()]))


async def find_many(users: UserListQueries, asked: LookUpUsers) -> list[User]:
    """Those of the users of a look-up that there are."""
    if asked.ids is not UNSET:
        return await users.look_up_users_by_id(ids=Ids.of(asked.ids))
    return await users.look_up_users_by_email(emails=list[str](asked.emails or ()))


ROUTES = [
    Operation("GET", "/users", list_users, "users:read", UserPage, short_cut=cut_to_page),
    Operation("POST", "/users/lookup", look_up_users, "users:read", User),
]
