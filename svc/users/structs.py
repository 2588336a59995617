"""What may be sent and what is answered: the outer boundary of the users."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from svc.accounts.passwords import Password, PasswordHash
from svc.http.emails import Email
from svc.http.fields import Id, Instant, JsonObject, Text
from svc.postgres.mapping import Moment


class CreateUser(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /users`."""

    email: Email
    password: Password
    display_name: Text | None = None
    profile: JsonObject | None = None
    referred_by: Id | None = None


class ImportUser(Struct, frozen=True, forbid_unknown_fields=True):
    """A line of `POST /users/import`: with one of the two, `password` and `hashed_password`."""

    email: Email
    password: Password | UnsetType = UNSET
    hashed_password: PasswordHash | UnsetType = UNSET
    display_name: Text | None = None
    profile: JsonObject | None = None
    referred_by: Id | None = None


class UpdateUser(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PATCH /users/{id}`, a merge patch (RFC 7396): an absent field stays as it is."""

    email: Email | UnsetType = UNSET
    display_name: Text | None | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET
    profile: JsonObject | UnsetType = UNSET


class LookUpUsers(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /users/lookup`: one of the two."""

    ids: Annotated[list[Id], Meta(max_length=1000)] | UnsetType = UNSET
    emails: Annotated[list[Email], Meta(max_length=1000)] | UnsetType = UNSET

    @property
    def is_one(self) -> bool:
        """Whether it is one of the two."""
        return (self.ids is UNSET) != (self.emails is UNSET)

    @property
    def size(self) -> int:
        """How many users are asked for."""
        return len(self.ids or self.emails or ())


class User(Struct, frozen=True, gc=False, omit_defaults=True):
    """A user as clients see it; `profile` comes only where `fields` asks for it.

    A moment has as many decimals as there are, as PostgreSQL's `to_rfc3339` writes it.
    """

    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: Moment
    profile: Raw | None = None


USER_FIELDS = User.__struct_fields__


class UserFields(tuple[str, ...]):
    """A choice of a user's fields: `id,email`."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read one. Raises ValueError for a field that a user does not have, or none at all."""
        names = str(value).split(",")
        for name in names:
            if name not in USER_FIELDS:
                raise ValueError(f"Unknown field; expected some of {', '.join(USER_FIELDS)}")
        return cls(dict.fromkeys(names))


class GetUser(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of `GET /users/{id}`."""

    fields: UserFields | None = None

    @property
    def wants_profile(self) -> bool:
        """A profile may be large, so it is read only for those who ask."""
        return self.fields is not None and "profile" in self.fields


Sort = Literal["id", "-id", "email", "-email", "created_at", "-created_at"]


class ListUsers(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of `GET /users`."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: str | None = None
    sort: Sort = "id"
    fields: UserFields | None = None
    email: Email | None = None
    is_active: bool | None = None
    created_from: Instant | None = None
    created_to: Instant | None = None

    @property
    def wants_profile(self) -> bool:
        """A profile may be large, so it is read only for those who ask."""
        return self.fields is not None and "profile" in self.fields


class UserPage(Struct, frozen=True, omit_defaults=True):
    """The answer of `GET /users`: users, or chosen fields of them.

    `next_cursor` is null on the last page; `count` comes when preferred.
    """

    users: Sequence[User | dict[str, object]]
    next_cursor: str | None
    count: int | None = None


class UsersFound(Struct, frozen=True):
    """The answer of `POST /users/lookup`: users in the order asked, null where there is none."""

    users: list[User | None]
