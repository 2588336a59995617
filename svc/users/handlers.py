"""Single users: POST /users and /users/{id}."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Protocol, Self, cast

from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from svc.accounts.passwords import Passwords
from svc.http.answers import answer_changed, answer_created, answer_deleted, answer_found
from svc.http.headers import IdempotencyKey, format_etag, read_idempotency_key, read_if_match
from svc.http.operations import FastRoute, Operation
from svc.http.parsing import (
    JSON_TYPES,
    MERGE_PATCH_TYPES,
    invalid_body,
    parse_id,
    parse_plain_body,
    read_body,
    read_id,
    read_query,
)
from svc.http.problems import Problem, not_changed
from svc.http.resource import Resource, Service
from svc.postgres.batching import Ids, ReadBatcher, WriteBatcher, batch_by_id
from svc.postgres.errors import ConflictError, ConstraintError
from svc.postgres.queries import Queries
from svc.postgres.queueing import Callback, Limits
from svc.postgres.secret import Secret
from svc.users.constraints import CONSTRAINTS, EMAIL_TAKEN
from svc.users.rows import StoredUser
from svc.users.scopes import READ, SCOPES, WRITE
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


NO_CHANGE = UpdateUser()


class NewUser(Struct, frozen=True):
    """A new user as it leaves in a batch, and what was sent of it."""

    email: str
    hashed_password: str
    display_name: str | None
    sent: CreateUser


class Registration(Struct, frozen=True):
    """A new user without anything that takes a statement of its own, and the key that it came with."""

    new: CreateUser
    owner: int | None


class FirstAnswer(Struct, frozen=True):
    """What the first request was answered."""

    user_id: int
    email: str
    display_name: str | None
    created_at: str
    hashed_password: Secret[str]
    same_body: bool


class UserQueries(Queries, Protocol, file="users.sql"):
    """queries/users.sql"""

    async def create_user(self, *, new: CreateUser, hashed_password: str) -> StoredUser: ...
    async def create_users(self, *, new: list[NewUser]) -> list[StoredUser]: ...
    async def create_user_once(
        self, *, new: CreateUser, hashed_password: str, key: IdempotencyKey
    ) -> StoredUser | None: ...
    async def get_first_answer(self, *, key: IdempotencyKey) -> FirstAnswer | None: ...
    async def forget_answer(self, *, key: IdempotencyKey) -> int: ...
    async def get_user(self, *, id: int, with_profile: bool) -> StoredUser | None: ...
    async def get_users(self, *, ids: Ids) -> list[StoredUser]: ...
    async def update_users(self, *, changes: list[SmallChange]) -> list[StoredUser]: ...
    async def update_user(
        self, *, id: int, versions: list[int] | None, change: UpdateUser, set_display_name: bool, waits: bool
    ) -> StoredUser | None: ...
    async def delete_user(self, *, id: int, versions: list[int] | None) -> int: ...


class Users:
    """The handlers of single users. Point reads and small changes leave in batches."""

    def __init__(self, queries: UserQueries, passwords: Passwords, limits: Limits) -> None:
        self._queries = queries
        self._passwords = passwords
        self.by_id: ReadBatcher[int, StoredUser] = batch_by_id(
            limits, partial(queries.get_user, with_profile=False), queries.get_users
        )
        self._changes = WriteBatcher[UserChange, StoredUser](
            limits,
            change_one=lambda change: update_alone(queries, change),
            change_many=lambda changes: update_together(queries, changes),
        )
        self.submit_change = self._changes.submit
        self._creations = WriteBatcher[NewUser, StoredUser](
            limits,
            change_one=lambda new: queries.create_user(new=new.sent, hashed_password=new.hashed_password),
            change_many=lambda new: create_together(queries, new),
            find_key=attrgetter("email"),
        )
        self._tasks: set[asyncio.Task[StoredUser | None]] = set()

    async def create(self, request: Request) -> Response:
        """Register a user: 201 and where it is; the same again for a retry with the same Idempotency-Key."""
        new = await read_body(request, CreateUser)
        owner = request.scope.get("key_id")
        if owner is None and new.referred_by is not None:  # its answer would tell who is there
            raise invalid_body([(("referred_by",), "Expected none, without a key")])
        profile = None if new.profile is None else Raw(bytes(new.profile))
        body: list[object] = [str(new.email), new.display_name, profile, new.referred_by]
        key = read_idempotency_key(request, body, f"anonymous {new.email}" if owner is None else owner)
        if key:
            return answer_new(new, await self._create_once(new, key, owner))
        if is_plain(new):
            return answer_new(new, await self._register(new, owner))
        hashed = await self._passwords.hash(new.password, owner)
        return answer_new(new, await self._queries.create_user(new=new, hashed_password=hashed))

    async def _register(self, new: CreateUser, owner: object) -> StoredUser | None:
        """Create a user together with others. Raises Problem where too many passwords wait."""
        hashed = await self._passwords.hash(new.password, owner)
        return await self._creations.get(NewUser(str(new.email), hashed, new.display_name, new))

    def submit_new(self, asked: Registration, callback: Callback[StoredUser]) -> None:
        """Have a user created, and `callback` called with it."""
        task = asyncio.ensure_future(self._register(asked.new, asked.owner))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(tell, callback))

    async def _create_once(self, new: CreateUser, key: IdempotencyKey, owner: object) -> StoredUser:
        """Return the user that the first request with this key made, this one perhaps. Raises Problem."""
        if first := await self._queries.get_first_answer(key=key):
            return await self._repeat(new, first, owner)
        hashed = await self._passwords.hash(new.password, owner)
        if user := await self._create_and_remember(new, hashed, key):
            return user
        if first := await self._queries.get_first_answer(key=key):  # it was made while we hashed
            return await self._repeat(new, first, owner)
        raise EMAIL_TAKEN.problem()

    async def _create_and_remember(
        self, new: CreateUser, hashed: str, key: IdempotencyKey
    ) -> StoredUser | None:
        """Create a user; where the key was used more than a day ago, that is forgotten first."""
        create = partial(self._queries.create_user_once, new=new, hashed_password=hashed, key=key)
        try:
            return await create()
        except ConstraintError:
            if not await self._queries.forget_answer(key=key):
                raise
            return await create()

    async def _repeat(self, new: CreateUser, first: FirstAnswer, owner: object) -> StoredUser:
        """Return the user as it was first answered. Raises Problem 422 where the body is another one now."""
        same = first.same_body and await self._passwords.verify(first.hashed_password, new.password, owner)
        if not same:
            raise Problem(422, "This Idempotency-Key came with another body before", code="key-reused")
        return StoredUser(first.user_id, first.email, first.display_name, True, first.created_at, 1)

    async def get(self, request: Request) -> Response:
        """Answer one user, or 304 where the client has this version."""
        query = read_query(request, GetUser)
        id_ = read_id(request)
        if query.wants_profile:
            user = await self._queries.get_user(id=id_, with_profile=True)
        else:
            user = await self.by_id.get(id_)
        return answer_found(user, "user", request, lambda user: show_user(user, query.fields))

    async def update(self, request: Request) -> Response:
        """Change the fields that are given (RFC 7396), if the client's version is the current one."""
        id_, versions = read_id(request), read_if_match(request)
        change = UserChange(id_, versions, await read_body(request, UpdateUser, MERGE_PATCH_TYPES))
        if change.fields == NO_CHANGE:
            return await self._change_nothing(id_, versions)
        if change.is_small:
            user = await self._changes.get(change)
        else:
            user = await update_alone(self._queries, change)
        return await answer_changed(user, "user", self._finder(id_), show_user)

    async def _change_nothing(self, id_: int, versions: list[int] | None) -> Response:
        """Answer an empty change: 204 and the version. A key that may write need not be one that may read."""
        user = await self._queries.get_user(id=id_, with_profile=False)
        if user is None or (versions is not None and user.version not in versions):
            raise not_changed(user, "user")
        return Response(status_code=204, headers={"ETag": format_etag(user.version)})

    async def delete(self, request: Request) -> Response:
        """Remove a user: 204."""
        id_ = read_id(request)
        count = await self._queries.delete_user(id=id_, versions=read_if_match(request))
        return await answer_deleted(count, "user", self._finder(id_))

    def _finder(self, id_: int) -> Callable[[], Awaitable[StoredUser | None]]:
        """Return what looks whether a user is there, past the batches."""
        return partial(self._queries.get_user, id=id_, with_profile=False)


def tell(callback: Callback[StoredUser], task: "asyncio.Task[StoredUser | None]") -> None:
    """Tell how a task ended, unless the service ends."""
    if not task.cancelled():
        error = task.exception()
        callback(None if error else task.result(), cast("Exception | None", error))


def is_plain(new: CreateUser) -> bool:
    """Return whether a new user may leave in a batch: a profile is large, and a referrer is looked for."""
    return new.profile is None and new.referred_by is None


def read_new(query: bytes, body: bytes, owner: int | None) -> Registration | None:
    """Return a new user that is plain; None for what the handler must look at."""
    new = None if query else parse_plain_body(body, CreateUser)
    return Registration(new, owner) if new and is_plain(new) else None


def answer_new(_: object, user: StoredUser | None) -> Response:
    """Return a user that was created: 201 and where it is."""
    if user is None:
        raise LookupError("a user was created, and none came back")
    return answer_created(user.public(), f"/users/{user.id}", user.version)


def read_change(id_: bytes, body: bytes, _: object) -> UserChange | None:
    """Return a small change of any version; None for what the handler must look at."""
    number, fields = parse_id(id_), parse_plain_body(body, UpdateUser)
    if number is None or fields is None or fields == NO_CHANGE:
        return None
    change = UserChange(number, None, fields)
    return change if change.is_small else None


def answer_change(_: UserChange, user: StoredUser | None) -> Response:
    """Return a user after its change. Raises Problem 404 where it is not there."""
    return answer_found(user, "user", show=show_user)


async def update_alone(users: UserQueries, change: UserChange, *, waits: bool = True) -> StoredUser | None:
    """Make one change with its own statement, which waits where the row is locked, or leaves it alone."""
    return await users.update_user(
        id=change.id,
        versions=change.versions,
        change=change.fields,
        set_display_name=change.fields.display_name is not UNSET,
        waits=waits,
    )


async def update_together(users: UserQueries, changes: Sequence[UserChange]) -> list[StoredUser]:
    """Make small changes with one statement, which leaves alone what is locked; one has a cheaper one."""
    if len(changes) > 1:
        return await users.update_users(changes=[*map(SmallChange.of, changes)])
    user = await update_alone(users, changes[0], waits=False)
    return [user] if user else []


async def create_together(users: UserQueries, new: list[NewUser]) -> list[StoredUser]:
    """Create users with one statement, but for those whose email is taken, or is being taken now.

    Where one of them would have to wait for somebody else, each has a statement of its own.
    """
    try:
        return await users.create_users(new=new)
    except ConflictError:
        each = [await create_together(users, [one]) for one in (new if len(new) > 1 else ())]
        return [user for created in each for user in created]


def show_user(user: StoredUser, fields: UserFields | None = None) -> object:
    """Return what clients see of a user, or the chosen fields of it."""
    public = user.public()
    return {field: getattr(public, field) for field in fields} if fields else public


EXAMPLES = """Register, read, list, change and delete a user:

    curl -i {address}/users -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' -d '{{"email": "ada@example.com", "password": "correct horse", "display_name": "Ada"}}'
    curl -i {address}/users/1 -H "Authorization: Bearer $KEY"
    curl -i {address}/users -H "Authorization: Bearer $KEY"
    curl -i {address}/users/1 -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' -X PATCH -d '{{"display_name": "Ada Lovelace"}}'
    curl -i {address}/users/1 -H "Authorization: Bearer $KEY" -X DELETE
"""  # noqa: E501


def build(service: Service) -> Resource:
    """Return the resource of single users."""
    users = Users(service.bind(UserQueries), service.share(Passwords), service.limits)
    fast = FastRoute(parse_id, users.by_id.submit, lambda _, user: answer_found(user, "user", show=show_user))
    change = FastRoute(read_change, users.submit_change, answer_change, MERGE_PATCH_TYPES)
    new = FastRoute(read_new, users.submit_new, answer_new, JSON_TYPES)
    one, kept, anyone = "/users/{id}", (409, 412), service.config.open_registration
    changed: dict[int, Any] = {200: User, 204: None}
    return Resource(
        operations=[
            Operation("GET", one, users.get, {200: User, 304: None}, READ, query=GetUser, fast=fast),
            Operation(
                "PATCH", one, users.update, changed, WRITE, body=UpdateUser, problems=kept, fast=change
            ),
            Operation("DELETE", one, users.delete, {204: None}, WRITE, problems=kept),
            Operation(
                "POST",
                "/users",
                users.create,
                {201: User},
                WRITE,
                open=anyone,
                body=CreateUser,
                problems=(409,),
                fast=new,
            ),
        ],
        queries=[UserQueries],
        constraints=CONSTRAINTS,
        scopes=SCOPES,
        examples=EXAMPLES,
    )
