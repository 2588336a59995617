"""What an answer over HTTP is held against: statuses, media types, fields, rows of the database."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NoReturn

import httpx

from bench.work import User

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

SECRETS = {"password", "hashed_password"}
HASH = "$argon2"


class DifferentError(Exception):
    """Something is not as it must be; the message says what was expected, and what was found."""


def differ(what: str, expected: object, found: object) -> NoReturn:
    """Raise DifferentError, in one line."""
    texts = (" ".join(str(value).split()) for value in (expected, found))
    shown = (text if len(text) <= 200 else f"{text[:200]}…" for text in texts)
    raise DifferentError("{}: expected {}, found {}".format(what, *shown))


def name(response: httpx.Response) -> str:
    """Return the request that was answered: `GET /users/1`."""
    return f"{response.request.method} {response.request.url.raw_path.decode()}"


def expect_status(response: httpx.Response, statuses: Collection[int]) -> None:
    """Raise DifferentError unless an answer has one of these statuses."""
    if response.status_code not in statuses:
        differ(name(response), " or ".join(map(str, statuses)), response.status_code)


def expect_type(response: httpx.Response, media_type: str) -> None:
    """Raise DifferentError unless an answer is of this type; parameters such as charset are let pass."""
    found = response.headers.get("content-type", "no type")
    if found.partition(";")[0].strip() != media_type:
        differ(f"{name(response)}: content-type", media_type, found)


def expect_fields(value: object, fields: Collection[str]) -> Mapping[str, object]:
    """Return a value of JSON as an object of exactly these fields. Raises DifferentError."""
    if not isinstance(value, dict):
        differ("answer", f"an object of {', '.join(fields)}", json.dumps(value))
    if value.keys() != set(fields):
        differ("fields", ", ".join(fields), ", ".join(value))
    return value


def expect_list(value: object, what: str) -> list[object]:
    """Return a value of JSON as a list. Raises DifferentError."""
    if not isinstance(value, list):
        differ(what, "a list", value)
    return value


def decode(content: bytes, what: str) -> object:
    """Return a value of JSON. Raises DifferentError."""
    try:
        value: object = json.loads(content)
    except ValueError:
        differ(what, "JSON", content)
    return value


def reject_secrets(response: httpx.Response) -> None:
    """Raise DifferentError where an answer holds a hash or a secret field; an error may name the field."""
    try:
        leaked = SECRETS.intersection(find_names(response.json())) if response.is_success else set()
    except ValueError:
        leaked = set()
    if leaked or HASH in response.text:
        differ(name(response), "no secret", ", ".join(sorted(leaked)) or "a hash")


def find_names(value: object) -> Iterator[str]:
    """Yield the names of all fields, at any depth."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from find_names(part)


def compare(answered: object, stored: User) -> None:
    """Raise DifferentError unless the answer is this user, all fields of it and nothing more."""
    for field, value in expect_fields(answered, stored.__struct_fields__).items():
        expected = getattr(stored, field)
        if not is_same(value, expected):
            differ(f"user {stored.id}: {field}", repr(expected), repr(value))


def compare_all(answered: Sequence[object], stored: Sequence[User | None]) -> None:
    """Raise DifferentError unless these users are answered in this order, null for None."""
    for place, (one, user) in enumerate(zip(answered, stored, strict=False), 1):
        if user and isinstance(one, dict) and one.get("id") == user.id:
            compare(one, user)
        elif user or one is not None:
            differ(f"place {place} of {len(stored)}", f"user {user.id}" if user else "null", one)
    if len(answered) != len(stored):
        differ("users", len(stored), len(answered))


def is_same(answered: object, stored: object) -> bool:
    """Return whether a value of JSON is this value of the database; of a time some have milliseconds only."""
    if not isinstance(stored, datetime):
        return type(answered) is type(stored) and answered == stored
    if not isinstance(answered, str) or not RFC_3339.fullmatch(answered):
        return False
    return abs(datetime.fromisoformat(answered) - stored) < timedelta(milliseconds=1)
