"""Checks raw values against a msgspec struct and names every field that fails, not only the first."""

import re
from collections.abc import Callable, Mapping
from typing import Protocol, Self, TypeVar, cast

import msgspec

S = TypeVar("S", bound=msgspec.Struct)
V = TypeVar("V")

Failure = tuple[tuple[str, ...], str]
"""Where a value fails, as field names and list indexes, and what is wrong with it."""


class Invalid(Exception):
    """One or more values do not fit.

    The path of a failure is empty for the value as a whole.
    """

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__("; ".join(f"{'.'.join(path)}: {detail}" for path, detail in failures))
        self.failures = failures


class Parsed(Protocol):
    """A type that makes itself out of a decoded value, raising ValueError or TypeError."""

    @classmethod
    def parse(cls, value: object) -> Self: ...


def parse_hook(type_: type[Parsed], value: object) -> object:
    """msgspec's `dec_hook`: hands a value to the `parse` of a type that msgspec does not know."""
    return type_.parse(value)


def validate(type_: type[S], values: object, *, strict: bool) -> S:
    """Make a struct of decoded values.

    `strict=False` also reads numbers, booleans and dates out of text, as query strings and the
    environment hold them. Raises Invalid with every field that fails.
    """
    try:
        return msgspec.convert(values, type_, strict=strict, dec_hook=parse_hook)
    except msgspec.ValidationError as error:
        given = cast("Mapping[str, object]", values if isinstance(values, Mapping) else {})

        def convert(value: object, field: object) -> object:
            return msgspec.convert(value, field, strict=strict, dec_hook=parse_hook)

        raise Invalid(find_failures(type_, given, convert) or [split_message(error)]) from None


def find_failures(
    type_: type[msgspec.Struct],
    given: Mapping[str, V],
    convert: Callable[[V, object], object],
) -> list[Failure]:
    """Return the slow second look: msgspec stops at the first failure, so each field is tried alone."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    failures: list[Failure] = [((name,), "Unknown field") for name in given if name not in fields]
    for name, field in fields.items():
        if name not in given:
            if field.required:
                failures.append(((name,), "Required"))
            continue
        try:
            convert(given[name], field.type)
        except msgspec.ValidationError as error:
            path, detail = split_message(error)
            failures.append(((name, *path), detail))
    return failures


def split_message(error: msgspec.ValidationError) -> tuple[tuple[str, ...], str]:
    """Take msgspec's "… - at `$.a[0].b`" apart into a path and a sentence.

    It says `[...]` for a value of a mapping, and not which: the path ends with the mapping.
    """
    message = str(error)
    detail, _, where = message.rpartition(" - at ")
    if not re.fullmatch(r"(?:`key` in )?`\$[^`]*`", where):
        return (), message
    known = where[where.index("$") + 1 : -1].partition("[...]")[0]
    return tuple(re.findall(r"[^.\[\]]+", known)), detail
