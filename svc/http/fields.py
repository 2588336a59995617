"""Types of fields that any resource may use: ids, text, moments, JSON objects."""

from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, ClassVar, Self, cast

import msgspec
from msgspec import Meta

from svc.postgres.connection import JsonText

Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""An int8 identity of PostgreSQL."""


Text = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        # Python's `$` lets a line end pass.
        pattern="^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U0010ffff]*$(?!\n)",
    ),
]
"""A line of text: no control characters, and none that turn the direction of what follows.

Joiners and plain direction marks are text; U+10FFFF is no character. (JSON that msgspec reads has no lone
surrogates.)
"""


class JsonObject(JsonText):
    """A JSON object that PostgreSQL can hold as jsonb: no U+0000, at most 32 levels deep.

    It is kept as text: as Python's objects 256 kB of it can take 8 MB, for as long as a request waits.
    """

    __slots__ = ()

    DEEPEST: ClassVar = 32

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read one. Raises ValueError, or TypeError for what is no object."""
        if not isinstance(value, dict):
            raise TypeError("Expected `object`")
        decoded = cast("dict[str, object]", value)
        check_json(decoded, cls.DEEPEST)
        return cls(msgspec.json.encode(decoded, order="deterministic").decode())

    def __bytes__(self) -> bytes:
        return self.encode()


def check_json(value: object, levels: int) -> None:
    """Check decoded JSON. Raises ValueError for what jsonb would refuse or change."""
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
        """Read one. Raises ValueError; the year stays in 1 to 9999 after the offset is taken off."""
        try:
            moment = msgspec.convert(value, Annotated[datetime, Meta(tz=True)]).astimezone(UTC)
        except (msgspec.ValidationError, OverflowError):
            raise ValueError(
                "Expected a date and time with an offset, such as 2026-01-31T12:00:00Z"
            ) from None
        return cls.combine(moment.date(), moment.timetz())
