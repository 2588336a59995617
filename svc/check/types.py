"""Which Python types fit which of PostgreSQL's, in and out."""

import enum
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from msgspec import Meta, Raw, UnsetType

from svc.http.fields import JsonObject
from svc.postgres.mapping import MOMENT
from svc.postgres.secret import Secret

INTEGERS = {"int2": 2**15, "int4": 2**31, "int8": 2**63}

SCALARS: dict[type, tuple[str, ...]] = {
    bool: ("bool",),
    str: ("text", "varchar", "bpchar", "name", "citext"),
    bytes: ("bytea",),
    float: ("float4", "float8"),
    Decimal: ("numeric",),
    UUID: ("uuid",),
    date: ("date",),
    time: ("time",),
    timedelta: ("interval",),
}
"""Python type → the types of PostgreSQL that asyncpg makes of it and it of them, without loss.

asyncpg's manual, "Type conversion"; integers, dates with times, JSON, enums and arrays have their own rules.
"""


def split_optional(type_: Any) -> tuple[Any, bool]:
    """Return a type without `| None` and `| UnsetType`, and whether it had one: UNSET is sent as null."""
    if get_origin(type_) is Annotated and get_origin(get_args(type_)[0]) in (Union, UnionType):
        type_ = get_args(type_)[0]
    if get_origin(type_) not in (Union, UnionType):
        return type_, False
    parts = [part for part in get_args(type_) if part not in (NoneType, UnsetType)]
    return (parts[0] if len(parts) == 1 else Union[tuple(parts)]), len(parts) < len(get_args(type_))  # noqa: UP007


def split_secret(type_: Any) -> tuple[Any, bool]:
    """Return what a Secret holds, and whether it is one."""
    return (get_args(type_)[0], True) if get_origin(type_) is Secret else (type_, False)


def describe(type_: Any) -> str:
    """Return a type as one would write it."""
    if isinstance(type_, type) and not get_args(type_):
        return type_.__name__
    return str(type_).replace("typing.", "").replace("datetime.", "")


def fits(type_: Any, name: str, labels: Sequence[str] | None, *, into_database: bool) -> bool:
    """Return whether a Python type, which is not optional, fits PostgreSQL's type of that name.

    `labels` are an enum's. `into_database` tells a parameter from a column: what goes in must never be too
    large for its place, what comes out must never be more than the type promises.
    """
    bare, metas = split_annotated(type_)
    if name.startswith("_") or name.endswith("[]"):
        element = name.removeprefix("_").removesuffix("[]")
        of_list = get_args(bare)[0] if get_origin(bare) is list else None
        inner, _ = split_optional(of_list)  # whether it holds nulls is asked elsewhere
        return fits(inner, element, labels, into_database=into_database)
    if labels is not None:
        return enum_fits(bare, labels, into_database)
    if get_origin(bare) is Literal:
        return (
            into_database and all(isinstance(value, str) for value in get_args(bare)) and name in SCALARS[str]
        )
    if not isinstance(bare, type):
        return False
    if name in ("json", "jsonb"):
        return json_fits(bare, name, into_database)
    if issubclass(bare, datetime):
        naive = any(meta.tz is False for meta in metas)
        return name == ("timestamp" if naive else "timestamptz")
    if bare is int:
        return integer_fits(metas, name, into_database)
    return any(
        issubclass(bare, base) and name in names
        for base, names in SCALARS.items()
        if base is not date or bare is date
    )


IN_JSON = frozenset(("bool", "json", "jsonb", "uuid", *INTEGERS, *SCALARS[str]))
"""Types whose values `json_agg` writes as they are read back, all of them: no NaN, no infinity, no bytes."""


def fits_in_json(type_: Any, name: str, labels: Sequence[str] | None) -> bool:
    """Return whether a field fits a column of JSON whose values are of PostgreSQL's type of that name.

    A Moment is a `timestamp` there, which JSON has in ISO 8601, whatever the session says.
    """
    if get_origin(type_) is Annotated and MOMENT in get_args(type_):
        return name == "timestamp"
    known = name in IN_JSON or labels is not None
    return known and fits(type_, name, labels, into_database=False)


def split_annotated(type_: Any) -> tuple[Any, list[Meta]]:
    """Return a type and what msgspec is told of it."""
    if get_origin(type_) is not Annotated:
        return type_, []
    bare, *rest = get_args(type_)
    inner, metas = split_annotated(bare)
    return inner, [*metas, *(part for part in rest if isinstance(part, Meta))]


def integer_fits(metas: Sequence[Meta], name: str, into_database: bool) -> bool:
    """Return whether an int fits: without bounds it has int8's range, too large for narrower parameters."""
    if name not in INTEGERS:
        return False
    if not into_database or name == "int8":
        return True
    least = max((meta.ge if meta.ge is not None else -(2**63) for meta in metas), default=-(2**63))
    most = min((meta.le if meta.le is not None else 2**63 for meta in metas), default=2**63)
    return -INTEGERS[name] <= least and most < INTEGERS[name]


def enum_fits(type_: Any, labels: Sequence[str], into_database: bool) -> bool:
    """Return whether every label that may pass exists on the other side. Text fits what comes out."""
    if get_origin(type_) is Literal:
        values = set(get_args(type_))
    elif isinstance(type_, type) and issubclass(type_, enum.StrEnum):
        values = {member.value for member in type_}
    else:
        return type_ is str and not into_database
    return values <= set(labels) if into_database else set(labels) <= values


def json_fits(type_: type, name: str, into_database: bool) -> bool:
    """Return whether JSON fits: jsonb goes in as a checked object, either comes out unparsed."""
    if into_database:
        return name == "jsonb" and (issubclass(type_, JsonObject | Mapping))
    return type_ is Raw
