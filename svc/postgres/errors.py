"""What can go wrong between here and the rows, in words of this package's own.

Whoever uses the database meets these errors and no driver's, which would name columns and hold values. What
they mean to a client is for http/problems.py to say. The driver's error stays as `__cause__`, for the log.
"""

import asyncpg


class DatabaseError(Exception):
    """The database, or the way to it, could not do what was asked. The message holds no value of a row."""


class UnavailableError(DatabaseError):
    """It has nothing to do with what was asked: later, or elsewhere, the same would succeed."""


class OverloadedError(UnavailableError):
    """Too much is asked at one time; nothing was done."""


class UnreachableError(UnavailableError):
    """There is no usable connection; nothing was done."""


class QueryTimeoutError(UnavailableError):
    """A statement took longer than it may."""


class ReadOnlyError(UnavailableError):
    """The server takes no writes; nothing was done."""


class SchemaMismatchError(UnavailableError):
    """The live schema is not the one that the statement was proven on; nothing was done."""


class OutcomeUnknownError(UnavailableError):
    """The connection was lost while a change was under way: it may have been made, or may not."""


class ConflictError(DatabaseError):
    """Another transaction was in the way; nothing was done, and trying again may succeed."""


class InvalidValueError(DatabaseError):
    """A value that was sent cannot be stored."""


class ConstraintError(DatabaseError):
    """A row would break the constraint of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the constraint {name} would be broken")
        self.name = name


UNREACHABLE = "The database cannot be reached"
SCHEMA_MISMATCH = "The database's schema is not the one this release needs"
TOO_SLOW = "The database took too long"
CONFLICT = "The change met another one; nothing was done"

SQLSTATES: dict[str, tuple[type[DatabaseError], str]] = {
    "22000": (InvalidValueError, "A value is out of range"),  # what asyncpg itself refuses, too
    "22003": (InvalidValueError, "A number is too large to be stored"),
    "22008": (InvalidValueError, "A date is out of range"),
    "22021": (InvalidValueError, "A text holds a character that cannot be stored"),
    "22P05": (InvalidValueError, "A text holds a character that cannot be stored"),
    "54000": (InvalidValueError, "A value is too large to be stored"),
    "54001": (InvalidValueError, "A value is nested too deeply to be stored"),
    "40001": (ConflictError, CONFLICT),
    "40P01": (ConflictError, CONFLICT),
    "55P03": (ConflictError, "The row is locked; nothing was done"),
    "57014": (QueryTimeoutError, TOO_SLOW),
    "25006": (ReadOnlyError, "The database takes no writes at the moment"),
    "42": (SchemaMismatchError, SCHEMA_MISMATCH),
    "0A": (SchemaMismatchError, SCHEMA_MISMATCH),
    "08": (UnreachableError, UNREACHABLE),
    "28": (UnreachableError, UNREACHABLE),
    "3D": (UnreachableError, UNREACHABLE),
    "53": (UnreachableError, "The database has run out of something"),
    "57": (UnreachableError, "The database is shutting down or starting"),
}
"""SQLSTATE, or its class (the first two characters) → the error and its message.

PostgreSQL manual, appendix A. What is missing here is a bug of ours, and stays the driver's error.
"""

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that a call of the driver may raise; a TimeoutError is an OSError."""


def translate(error: Exception) -> Exception:
    """Return the error of this package for one of the driver's, or the same error where there is none."""
    if isinstance(error, asyncpg.PostgresError):
        return translate_sqlstate(error)
    if isinstance(error, TimeoutError):  # an OSError, so it comes first
        return QueryTimeoutError(TOO_SLOW)
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return UnreachableError(UNREACHABLE)
    return error


def translate_sqlstate(error: asyncpg.PostgresError) -> Exception:
    """Look the SQLSTATE up, then its class; integrity violations (class 23) go by their constraint."""
    state = str(error.sqlstate)
    if state.startswith("23") and error.constraint_name:
        return ConstraintError(error.constraint_name)
    found = SQLSTATES.get(state) or SQLSTATES.get(state[:2])
    return found[0](found[1]) if found else error


VALUE_CLASSES = ("22", "P0")
"""Classes of SQLSTATEs whose messages hold values of rows: data exceptions, and what a function raises.

Those of other classes name columns, constraints and relations; values stand in DETAIL, HINT and CONTEXT.
"""


def describe_error(error: BaseException, *, values: bool) -> str | None:
    """Return what an error says; None where that may hold values and they are not wanted."""
    if not isinstance(error, asyncpg.PostgresError):
        return str(error)
    if values:
        parts = [error.args[0], *(getattr(error, name, None) for name in ("detail", "hint", "context"))]
        return "\n".join(str(part) for part in parts if part)
    hidden = str(error.sqlstate).startswith(VALUE_CLASSES) or not error.sqlstate
    return None if hidden else str(error.args[0])
