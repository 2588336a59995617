"""Single users: POST /users and /users/{id}."""

from collections.abc import Sequence
from typing import Protocol, Self

from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from svc.accounts.passwords import Passwords
from svc.http.answers import answer
from svc.http.headers import Retry, etag, is_known, read_retry, read_versions
from svc.http.operations import Operation, ShortCut
from svc.http.parsing import MERGE_PATCH_TYPES, parse_id, read_body, read_id, read_query
from svc.http.problems import Problem, broken_constraint
from svc.postgres.batching import Limits, ReadLane, WriteLane
from svc.postgres.queries import Queries
from svc.users.rows import Ids, StoredUser
from svc.users.structs import CreateUser, GetUser, UpdateUser, User, UserFields


class UserChange(Struct, frozen=True):
    """A change of one user, if it is one of these versions; None for any."""

    id: int
    versions: list[int] | None
    fields: UpdateUser

    @property
    def is_small(self) -> bool:
        """Whether it may leave in a batch: of one version at most, and without a profile.

        An email, too, goes alone: it may be taken, or about to be, and neighbours would fail or wait with it.
        """
        fields, versions = self.fields, self.versions
        is_plain = fields.email is UNSET and fields.profile is UNSET
        return is_plain and (versions is None or len(versions) == 1)


class SmallChange(Struct, frozen=True, kw_only=True):
    """A change of one user as it leaves in a batch."""

    id: int
    version: int | None
    set_display_name: bool
    display_name: str | None | UnsetType
    is_active: bool | UnsetType

    @classmethod
    def of(cls, change: UserChange) -> Self:
        """Make it of a change that is small."""
        fields = change.fields
        return cls(
            id=change.id,
            version=change.versions[0] if change.versions else None,
            set_display_name=fields.display_name is not UNSET,
            display_name=fields.display_name,
            is_active=fields.is_active,
        )


class FirstAnswer(Struct, frozen=True):
    """What the first request was answered."""

    user_id: int
    email: str
    display_name: str | None
    created_at: str
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
    async def get_users(self, *, ids: Ids) -> list[StoredUser]: ...
    async def update_users(self, *, changes: list[SmallChange]) -> list[StoredUser]: ...
    async def update_user(
        self, *, id: int, versions: list[int] | None, change: UpdateUser, set_display_name: bool, waits: bool
    ) -> StoredUser | None: ...
    async def delete_user(self, *, id: int, versions: list[int] | None) -> int: ...


class UserLane(ReadLane[int, StoredUser]):
    """Point reads by id, without profiles."""

    def __init__(self, users: UserQueries, limits: Limits) -> None:
        super().__init__(
            limits,
            one=lambda id_: users.get_user(id=id_, with_profile=False),
            many=lambda ids: find_users(users, ids),
        )


class ChangeLane(WriteLane[UserChange, StoredUser]):
    """Small changes of single users."""

    def __init__(self, users: UserQueries, limits: Limits) -> None:
        super().__init__(
            limits,
            one=lambda change: update_alone(users, change),
            many=lambda changes: update_together(users, changes),
        )


async def find_users(users: UserQueries, ids: list[int]) -> dict[int, StoredUser]:
    """Several users by their ids."""
    return {user.id: user for user in await users.get_users(ids=Ids.of(ids))}


async def create_user(request: Request, users: UserQueries, passwords: Passwords) -> Response:
    """Registers a user: 201 and where it is; the same again for a retry with the same Idempotency-Key."""
    new = await read_body(request, CreateUser)
    retry = read_retry(request, [str(new.email), new.display_name, new.profile, new.referred_by])
    if retry:
        user = await create_user_once(users, passwords, new, retry)
    else:
        user = await users.create_user(new=new, hashed_password=await passwords.hash(new.password))
    return answer_user(user, status=201, lines=b"location: /users/%d\r\n" % user.id)


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
    return StoredUser(first.user_id, first.email, first.display_name, True, first.created_at, 1)


async def get_user(request: Request, users: UserQueries, by_id: UserLane) -> Response:
    """One user, or 304 where the client has this version."""
    query = read_query(request, GetUser)
    id_ = read_id(request)
    if query.wants_profile:
        user = await users.get_user(id=id_, with_profile=True)
    else:
        user = await by_id.get(id_)
    if user and is_known(request, user.version):
        return Response(status_code=304, headers={"ETag": etag(user.version)})
    return answer_user(user, query.fields)


def cut_to_user(by_id: UserLane) -> ShortCut[int, StoredUser]:
    """The short cut of `GET /users/{id}`."""
    return ShortCut(parse_id, by_id.ask, lambda _, user: answer_user(user))


async def update_user(request: Request, users: UserQueries, changes: ChangeLane) -> Response:
    """Changes the fields that are given (RFC 7396), if the client's version is the current one."""
    id_, versions = read_id(request), read_versions(request)
    change = UserChange(id_, versions, await read_body(request, UpdateUser, MERGE_PATCH_TYPES))
    if change.fields == UpdateUser():
        user = await users.get_user(id=id_, with_profile=False)
        user = user if user and (versions is None or user.version in versions) else None
    elif change.is_small:
        user = await changes.get(change)
    else:
        user = await update_alone(users, change)
    if user is None:
        raise await why_unchanged(users, id_)
    return answer_user(user)


async def update_alone(users: UserQueries, change: UserChange, *, waits: bool = True) -> StoredUser | None:
    """One change with a statement of its own, which waits where the row is locked, or leaves it alone."""
    return await users.update_user(
        id=change.id,
        versions=change.versions,
        change=change.fields,
        set_display_name=change.fields.display_name is not UNSET,
        waits=waits,
    )


async def update_together(users: UserQueries, changes: Sequence[UserChange]) -> list[StoredUser]:
    """Small changes with one statement, which leaves alone what is locked; a single one has a cheaper one."""
    if len(changes) > 1:
        return await users.update_users(changes=[*map(SmallChange.of, changes)])
    user = await update_alone(users, changes[0], waits=False)
    return [user] if user else []


async def delete_user(request: Request, users: UserQueries) -> Response:
    """Removes a user: 204."""
    id_ = read_id(request)
    if not await users.delete_user(id=id_, versions=read_versions(request)):
        raise await why_unchanged(users, id_)
    return Response(status_code=204)


def answer_user(
    user: StoredUser | None,
    fields: UserFields | None = None,
    status: int = 200,
    lines: bytes = b"",
) -> Response:
    """A user, or the chosen fields of it, with its version. Raises Problem 404 for none."""
    if user is None:
        raise no_user()
    public = user.public()
    content = {field: getattr(public, field) for field in fields} if fields else public
    return answer(content, status, b'etag: "%d"\r\n%b' % (user.version, lines))


def no_user() -> Problem:
    """404."""
    return Problem(404, "There is no user with this id")


async def why_unchanged(users: UserQueries, id_: int) -> Problem:
    """Why a change found no row: 412 where the user is there in another version, else 404."""
    if await users.get_user(id=id_, with_profile=False) is None:
        return no_user()
    return Problem(412, "The user has changed since", code="changed-since")


ROUTES = [
    Operation("GET", "/users/{id}", get_user, "users:read", User, short_cut=cut_to_user),
    Operation("PATCH", "/users/{id}", update_user, "users:write", User),
    Operation("DELETE", "/users/{id}", delete_user, "users:write"),
    Operation("POST", "/users", create_user, "users:write", User, open_if="open_registration"),
]
