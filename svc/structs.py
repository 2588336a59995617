"""Every struct that comes in or goes out: the whole outer boundary of the service."""

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, ClassVar, Literal, Self, cast

import msgspec
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""An int8 identity of PostgreSQL."""


Text = Annotated[str, Meta(min_length=1, max_length=200, pattern="^[^\x00]*$")]
"""A line of text that PostgreSQL can hold: no U+0000. (JSON that msgspec reads has no lone surrogates.)"""


class Email(str):
    """An email address in its one canonical form: what Pydantic's `EmailStr` takes, in lower case.

    Mailboxes that differ in case alone are one mailbox in practice; the domain always is (RFC 5321
    2.3.11, 2.4). NFC comes last because lower-casing can undo it.
    """

    __slots__ = ()

    LONGEST: ClassVar = 2048
    PLAIN: ClassVar = re.compile(r"[a-z0-9_+]+(?:[.-][a-z0-9_+]+)*@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,}")
    SPECIAL: ClassVar = tuple(SPECIAL_USE_DOMAIN_NAMES)
    WITH_NAME: ClassVar = re.compile(
        r"""\s*(?:(?:[\w.!#$%&'*+\-/=?^_`{|}~]+\s+)*[\w.!#$%&'*+\-/=?^_`{|}~]+|"(?:[^"]|\")+")?\s*<(.+)>\s*"""
    )

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError, or TypeError for what is no text."""
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        if len(value) <= 64 and value.isascii():  # no part of it is too long: most need 2 µs instead of 80
            plain = value.lower()
            if cls.PLAIN.fullmatch(plain) and not plain.endswith(cls.SPECIAL):
                return cls(plain)
        if len(value) > cls.LONGEST:
            raise ValueError(f"Expected an email address of at most {cls.LONGEST} characters")
        if "\r" in value or "\n" in value:
            raise ValueError("Expected an email address on one line")
        named = cls.WITH_NAME.fullmatch(value) if value.rstrip().endswith(">") else None
        address = named[1] if named else value
        try:
            valid = validate_email(address.strip(), check_deliverability=False)
        except EmailNotValidError as error:
            raise ValueError(f"Not an email address: {error}") from None
        mailbox = valid.local_part.lower().replace("ς", "σ")  # both are the lower case of Σ
        return cls(unicodedata.normalize("NFC", f"{mailbox}@{valid.domain.lower()}"))


class Password(str):
    """A password to be hashed: 8 characters or more, 1,024 bytes at most. Its repr hides it."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError, or TypeError for what is no text."""
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        if len(value) < 8:
            raise ValueError("Expected 8 characters or more")
        if len(value.encode()) > 1024:
            raise ValueError("Expected 1,024 bytes or fewer")
        if "\x00" in value:
            raise ValueError("Expected no U+0000")
        return cls(value)

    def __repr__(self) -> str:
        return "Password(…)"


BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048])?"
NUMBER = "([1-9][0-9]{0,6})"


class PasswordHash(str):
    """A ready argon2 hash as a PHC string, of a cost that a login can bear. Its repr hides it."""

    __slots__ = ()

    PHC: ClassVar = re.compile(
        rf"\$argon2(?:id|i|d)\$v=(?:16|19)\$m={NUMBER},t={NUMBER},p={NUMBER}\$({BASE64})\$({BASE64})"
    )
    MOST: ClassVar = 262_144, 1_048_576, 16
    """KiB of memory; KiB times passes, about a second of one core; lanes, each a thread."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError, or TypeError for what is no text."""
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        found = cls.PHC.fullmatch(value)
        if not found or not 11 <= len(found[4]) <= 64 or not 16 <= len(found[5]) <= 86:
            raise ValueError("Expected an argon2 hash such as $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>")
        memory, passes, lanes = int(found[1]), int(found[2]), int(found[3])
        costs = zip((memory, memory * passes, lanes), cls.MOST, strict=True)
        if memory < 8 * lanes or any(cost > most for cost, most in costs):
            raise ValueError("Expected m from 8 × p to {:,}, m × t to {:,} and p to {}".format(*cls.MOST))
        return cls(value)

    def __repr__(self) -> str:
        return "PasswordHash(…)"


class JsonObject(dict[str, object]):
    """A JSON object that PostgreSQL can hold as jsonb: no U+0000, at most 32 levels deep."""

    DEEPEST: ClassVar = 32

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError, or TypeError for what is no object."""
        if not isinstance(value, dict):
            raise TypeError("Expected `object`")
        decoded = cast("dict[str, object]", value)
        check_json(decoded, cls.DEEPEST)
        return cls(decoded)


def check_json(value: object, levels: int) -> None:
    """Raises ValueError for decoded JSON that jsonb would refuse or change."""
    match value:
        case str():
            if "\x00" in value:
                raise ValueError("Expected no U+0000")
        case float():
            if not isfinite(value):
                raise ValueError("Expected a finite number")
        case dict() | list():
            if not levels:
                raise ValueError(f"Expected at most {JsonObject.DEEPEST} levels")
            parts = cast("dict[str, object] | list[object]", value)
            for part in (*parts, *parts.values()) if isinstance(parts, dict) else parts:
                check_json(part, levels - 1)
        case _:
            pass


class Instant(datetime):
    """A point in time with its offset, as RFC 3339 has it, in UTC."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError; the year stays in 1 to 9999 after the offset is taken off."""
        try:
            moment = msgspec.convert(value, Annotated[datetime, Meta(tz=True)]).astimezone(UTC)
        except (msgspec.ValidationError, OverflowError):
            raise ValueError(
                "Expected a date and time with an offset, such as 2026-01-31T12:00:00Z"
            ) from None
        return cls.combine(moment.date(), moment.timetz())


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


class User(Struct, frozen=True, gc=False, omit_defaults=True):
    """A user as clients see it; `profile` comes only where `fields` asks for it.

    A moment is RFC 3339 in UTC, with six decimals or none, as PostgreSQL's `rfc3339` writes it.
    """

    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: str
    profile: Raw | None = None


USER_FIELDS = User.__struct_fields__


class UserFields(tuple[str, ...]):
    """A choice of a user's fields: `id,email`."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError for a field that a user does not have, or none at all."""
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


class Health(Struct, frozen=True):
    """The answer of `/health/…` when all is well."""

    status: Literal["live", "ready"]
