"""Many users: GET /users and POST /users/lookup."""

from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import cache, partial
from typing import Annotated, Protocol, Self

import msgspec
from msgspec import UNSET, Meta, Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.http.answers import answer
from svc.http.headers import read_preference
from svc.http.operations import FastRoute, Operation
from svc.http.paging import Target, end_page, foreign_cursor, read_position
from svc.http.parsing import (
    JSON_TYPES,
    invalid_body,
    parse_plain_body,
    read_body,
    read_plain_query,
    read_query,
)
from svc.http.resource import Resource, Service
from svc.postgres.batching import Ids, PageBatcher, ReadBatcher
from svc.postgres.queries import Queries
from svc.postgres.queueing import BoundedQueue, Callback, Limits, queue_slow
from svc.postgres.statements import load
from svc.users.rows import StoredUser
from svc.users.scopes import READ
from svc.users.structs import ListUsers, LookUpUsers, User, UserFields, UserPage, UsersFound

PAGE_SIZE = 2**20
"""Bytes of profiles on a page: it ends with the one that reaches them; the next page goes on behind it."""

BLOCK_SIZES = 4, 32
"""Users with profiles that are read at once, at first and at most: they may have 256 kB each."""

FIRST_MOMENT, LAST_MOMENT = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))
"""As what `to_rfc3339` shows all that is before the year 1, and after the year 9999."""


class Position(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a page of a list ends: what its order looks at, of its last user. All null: before the first.

    Of a moment that is not shown as it is, `late` tells whether it is after the year 9999.
    """

    id: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None  # others may have put in any
    email: Annotated[str, Meta(pattern="^[^\x00]*$")] | None = None  # of any length: it is one that is stored
    created_at: datetime | None = None
    late: bool | None = None


FILTERS = {"is_active": "active", "created_from": "created_from", "created_to": "created_to"}
"""The filters of a list, and what a PageStart calls them."""


class PageStart(Struct, frozen=True):
    """A page as a statement is asked for it: where it begins, how many users at most, and which."""

    after_id: int | None
    after_email: str | None
    after_moment: datetime | None
    after_late: bool | None
    size: Annotated[int, Meta(ge=1, le=1001)]
    with_profile: bool
    active: bool | None
    created_from: datetime | None
    created_to: datetime | None


class PageRequest(Struct, frozen=True):
    """A page that is asked for, in these words."""

    query: ListUsers
    target: Target


class PagePlace(Struct, frozen=True):
    """A page that is asked for, and the user behind which it begins."""

    query: ListUsers
    after: Position

    @classmethod
    def of(cls, query: ListUsers) -> Self:
        """Find it. Raises Problem 422 for a cursor of another list."""
        return cls(query, read_position(query.cursor, describe_list(query), Position))

    @property
    def size(self) -> int:
        """The users to look for: one more where there is a next page."""
        return self.query.limit + 1

    def start(self, after: Position | None = None, size: int | None = None) -> PageStart:
        """Return it for a statement, or a part of it."""
        query, after = self.query, after or self.after
        return PageStart(
            after.id,
            after.email,
            after.created_at,
            after.late,
            size or self.size,
            query.wants_profile,
            query.is_active,
            query.created_from,
            query.created_to,
        )


class UserListQueries(Queries, Protocol, file="user_lists.sql"):
    """queries/user_lists.sql"""

    async def look_up_users_by_id(self, *, ids: Ids) -> list[User]: ...
    async def look_up_users_by_email(self, *, emails: list[str]) -> list[User]: ...
    async def get_user_by_email(self, *, email: str, with_profile: bool) -> StoredUser | None: ...
    async def get_users_by_email(self, *, emails: list[str]) -> list[StoredUser]: ...
    async def count_users(self, *, filter: ListUsers) -> int: ...
    async def estimate_users(self, *, filter: ListUsers) -> Raw: ...
    async def list_users_by_id(self, *, pages: list[PageStart]) -> list[list[User]]: ...
    async def list_users_by_id_desc(self, *, pages: list[PageStart]) -> list[list[User]]: ...
    async def list_users_by_email(self, *, pages: list[PageStart]) -> list[list[User]]: ...
    async def list_users_by_email_desc(self, *, pages: list[PageStart]) -> list[list[User]]: ...
    async def list_users_by_created_at(self, *, pages: list[PageStart]) -> list[list[User]]: ...
    async def list_users_by_created_at_desc(self, *, pages: list[PageStart]) -> list[list[User]]: ...


class FetchPages(Protocol):
    """A query for the users of several pages, and of each one more where there is a next page."""

    def __call__(self, *, pages: list[PageStart]) -> Awaitable[list[list[User]]]: ...


Lane = BoundedQueue[PagePlace, list[User]]


class UserLists:
    """The handlers of many users. Pages of an order leave in batches, and look-ups by ids or by emails.

    What may walk the whole table has a lane of its own: a page whose filter no index finds, an exact count.
    So have pages with profiles, which may be large. None of these leaves in a batch.
    """

    def __init__(self, queries: UserListQueries, limits: Limits) -> None:
        self._queries = queries
        self._orders: dict[str, FetchPages] = {
            "id": queries.list_users_by_id,
            "-id": queries.list_users_by_id_desc,
            "email": queries.list_users_by_email,
            "-email": queries.list_users_by_email_desc,
            "created_at": queries.list_users_by_created_at,
            "-created_at": queries.list_users_by_created_at_desc,
        }
        self._pages = {
            sort: PageBatcher[PagePlace, User](limits, partial(find_pages, fetch))
            for sort, fetch in self._orders.items()
        }
        self._walks: Lane = queue_slow(self._find_page, limits)
        self._profiles: Lane = queue_slow(self._find_page_with_profiles, limits)
        self._counts: BoundedQueue[ListUsers, int] = queue_slow(partial(count_exactly, queries), limits)
        self._by_ids = PageBatcher[LookUpUsers, User | None](limits, partial(find_by_ids, queries))
        self._by_emails = PageBatcher[LookUpUsers, User | None](limits, partial(find_by_emails, queries))
        self._by_email = ReadBatcher[str, StoredUser](
            limits,
            fetch_one=lambda email: queries.get_user_by_email(email=email, with_profile=False),
            fetch_many=lambda emails: queries.get_users_by_email(emails=emails),
            find_key=lambda user: user.email,
        )

    async def list_page(self, request: Request) -> Response:
        """Answer a page of users, and the way to the next one."""
        query = read_query(request, ListUsers)
        asked = PageRequest(query, Target.of(request))
        if query.email:
            page: list[User] | None = await self._find_by_email(query, query.email)
        else:
            place = PagePlace.of(query)
            page = await self._find_lane(place).get(place)
        counted = None
        if preferred := read_preference(request):
            exact = preferred == "exact"
            number = self._counts.get(query) if exact else estimate(self._queries, query)
            counted = preferred, await number or 0
        return answer_page(asked, page, counted)

    def submit(self, asked: PageRequest, callback: Callback[list[User]]) -> None:
        """Have a page that no email is asked of found, and `callback` called with it. Raises Problem."""
        place = PagePlace.of(asked.query)
        self._find_lane(place).submit(place, callback)

    def _find_lane(self, place: PagePlace) -> Lane:
        if place.query.wants_profile:
            return self._profiles
        return self._walks if walks(place.query) else self._pages[place.query.sort].find_lane(place)

    async def _find_page(self, asked: PagePlace) -> list[User]:
        """Return the users of a page alone, and one more where there is a next page."""
        (users,) = await find_pages(self._orders[asked.query.sort], [asked])
        return users

    async def _find_page_with_profiles(self, asked: PagePlace) -> list[User]:
        """Return the same of a page that its profiles may end: it is read block by block."""
        (size, most), query, after = BLOCK_SIZES, asked.query, asked.after
        users: list[User] = []
        while (missing := find_limit(query, users) + 1 - len(users)) > 0:
            start = asked.start(after, min(size, missing))
            (block,) = await self._orders[query.sort](pages=[start])
            users += block
            if len(block) < start.size:
                break
            after, size = find_position(query, block[-1]), min(2 * size, most)
        return users

    async def _find_by_email(self, query: ListUsers, email: str) -> list[User]:
        """Return at most one user, if the other filters let it through; no cursor leads there or on."""
        if query.cursor is not None:
            raise foreign_cursor()
        if query.wants_profile:
            user = await self._queries.get_user_by_email(email=email, with_profile=True)
        else:
            user = await self._by_email.get(email)
        return [user.public()] if user and passes(query, user) else []

    async def look_up(self, request: Request) -> Response:
        """Answer many users by their ids or emails, in the order asked; null where there is none."""
        asked = await read_body(request, LookUpUsers)
        if not asked.is_one:
            raise invalid_body([((), "Expected ids or emails, one of the two")])
        return answer_look_up(asked, await self._find_look_ups(asked).get(asked))

    def submit_look_up(self, asked: LookUpUsers, callback: Callback[list[User | None]]) -> None:
        """Have many users looked up, and `callback` called with them, in the order asked."""
        self._find_look_ups(asked).submit(asked, callback)

    def _find_look_ups(self, asked: LookUpUsers) -> BoundedQueue[LookUpUsers, list[User | None]]:
        return (self._by_emails if asked.ids is UNSET else self._by_ids).find_lane(asked)


def read_page(query_string: bytes) -> PageRequest | None:
    """Return what a plain query asks for; None for one that the handler must look at, as for an email."""
    query = read_plain_query(query_string, ListUsers)
    return PageRequest(query, Target("/users", query_string)) if query and not query.email else None


def answer_page(
    asked: PageRequest, page: list[User] | None, counted: tuple[str, int] | None = None
) -> Response:
    """Return a page, the way to the next one, and how many there are on all: how counted, the number."""
    query, users = asked.query, page or []
    list_, limit = describe_list(query), find_limit(query, users)
    cursor, lines = end_page(users, limit, asked.target, list_, lambda last: find_position(query, last))
    if counted:
        lines += f"preference-applied: count={counted[0]}\r\ncontent-range: */{counted[1]}\r\n".encode()
    shown = choose_fields(users, query.fields) if query.fields else users
    return answer(UserPage(shown, cursor, counted[1] if counted else None), lines=lines)


def find_limit(query: ListUsers, users: list[User]) -> int:
    """Return how many users a page may have: as many as are asked for, or as many as their profiles let."""
    size = 0
    for count, user in enumerate(users if query.wants_profile else (), 1):
        size += memoryview(user.profile).nbytes if user.profile else 0
        if size >= PAGE_SIZE:
            return min(count, query.limit)
    return query.limit


async def find_pages(fetch: FetchPages, batch: list[PagePlace]) -> list[list[User]]:
    """Return the users of each page, and one more where there is a next page."""
    return await fetch(pages=[asked.start() for asked in batch])


def read_look_up(query: bytes, body: bytes, _: object) -> LookUpUsers | None:
    """Return a look-up that fits; None for what the handler must look at."""
    asked = None if query else parse_plain_body(body, LookUpUsers)
    return asked if asked and asked.is_one else None


def answer_look_up(_: LookUpUsers, users: list[User | None] | None) -> Response:
    """Return the users of a look-up."""
    return answer(UsersFound(users or []))


async def find_by_ids(users: UserListQueries, batch: list[LookUpUsers]) -> list[list[User | None]]:
    """Return the users of each look-up by ids, None where there is none."""
    wanted = {id_: None for asked in batch for id_ in asked.ids or ()}
    found = {user.id: user for user in await users.look_up_users_by_id(ids=Ids.of([*wanted]))}
    return [[*map(found.get, asked.ids or ())] for asked in batch]


async def find_by_emails(users: UserListQueries, batch: list[LookUpUsers]) -> list[list[User | None]]:
    """Return the users of each look-up by emails, None where there is none."""
    wanted = {str(email): None for asked in batch for email in asked.emails or ()}
    found = {user.email: user for user in await users.look_up_users_by_email(emails=[*wanted])}
    return [[found.get(email) for email in asked.emails or ()] for asked in batch]


def passes(query: ListUsers, user: StoredUser) -> bool:
    """Return whether the filters of a list, but for the email, let a user through."""
    if query.is_active not in (None, user.is_active):
        return False
    if query.created_from is None and query.created_to is None:
        return True
    created_at = datetime.fromisoformat(user.created_at)
    return (query.created_from is None or created_at >= query.created_from) and (
        query.created_to is None or created_at < query.created_to
    )


def choose_fields(users: list[User], fields: UserFields) -> list[dict[str, object]]:
    """Return the chosen fields of each user of a page."""
    return [{field: getattr(user, field) for field in fields} for user in users]


@cache
def find_unindexed(sort: str) -> frozenset[str]:
    """Return the filters by which a list in this order walks rows, as its query says."""
    suffix = "_desc" if sort.startswith("-") else ""
    query = load("user_lists.sql")[f"list_users_by_{sort.removeprefix('-')}{suffix}"]
    return frozenset(name for name, column in FILTERS.items() if f"pages.{column}" in query.unindexed)


def walks(query: ListUsers) -> bool:
    """Return whether a page may walk the whole table, to find the few users that its filters let through."""
    return any(getattr(query, name) is not None for name in find_unindexed(query.sort))


async def count_exactly(users: UserListQueries, query: ListUsers) -> int:
    """Return how many users the filters let through, on all pages together."""
    return await users.count_users(filter=query)


async def estimate(users: UserListQueries, query: ListUsers) -> int:
    """Return the planner's guess at the same."""
    plan = msgspec.json.decode(await users.estimate_users(filter=query), type=list[Explained])
    return plan[0].plan.rows


class PlanNode(Struct, rename={"rows": "Plan Rows"}):
    """The top of a plan."""

    rows: int


class Explained(Struct, rename={"plan": "Plan"}):
    """What `explain (format json)` answers."""

    plan: PlanNode


def describe_list(query: ListUsers) -> object:
    """Return what a cursor is tied to."""
    return query.sort, query.is_active, query.created_from, query.created_to


def find_position(query: ListUsers, last: User) -> Position:
    """Return where a page ended: at this user."""
    if query.sort.endswith("email"):
        return Position(email=last.email)
    if query.sort.endswith("id"):
        return Position(id=last.id)
    moment = datetime.fromisoformat(last.created_at)
    if FIRST_MOMENT < moment < LAST_MOMENT:
        return Position(id=last.id, created_at=moment)
    return Position(id=last.id, late=moment == LAST_MOMENT)


def build(service: Service) -> Resource:
    """Return the resource of many users."""
    users = UserLists(service.bind(UserListQueries), service.limits)
    fast = FastRoute(read_page, users.submit, answer_page)
    look_up, many = "/users/lookup", FastRoute(read_look_up, users.submit_look_up, answer_look_up, JSON_TYPES)
    return Resource(
        operations=[
            Operation("GET", "/users", users.list_page, {200: UserPage}, READ, query=ListUsers, fast=fast),
            Operation("POST", look_up, users.look_up, {200: UsersFound}, READ, body=LookUpUsers, fast=many),
        ],
        queries=[UserListQueries],
    )
