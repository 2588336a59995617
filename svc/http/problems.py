"""Every error a client can see: problem documents, and the table that makes them of the database's errors."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import asyncpg
from msgspec import Struct


class FieldError(Struct, frozen=True):
    """One failing field: a JSON pointer as a URI fragment (`#/email`) or a query parameter (`?limit`)."""

    pointer: str
    detail: str


class ProblemDocument(Struct, frozen=True, omit_defaults=True):
    """The body of every error: RFC 9457, `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: tuple[FieldError, ...] = ()


class Problem(Exception):
    """An answer that is an error. Raised anywhere below a handler, written out in one place.

    `code` tells problems of one status apart and becomes the document's type; clients may rely on it.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str | None = None,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.errors = errors
        self.headers = headers

    def document(self, request_id: str) -> ProblemDocument:
        """The body for the client."""
        return ProblemDocument(
            type=f"urn:bareline:problem:{self.code}" if self.code else "about:blank",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            request_id=request_id,
            errors=self.errors,
        )


def unavailable(detail: str, code: str) -> Problem:
    """503: the client may try again. Nothing was done, unless the code is `outcome-unknown`."""
    return Problem(503, detail, code=code, headers={"Retry-After": "1"})


SCHEMA_MISMATCH = "The database's schema is not the one this release needs"

CONSTRAINTS: dict[str, tuple[int, str, str, str]] = {
    "users_email_key": (409, "email-taken", "#/email", "A user with this email exists"),
    "idempotency_keys_pkey": (409, "in-progress", "#", "The first request with this key is still at work"),
    "users_profile_is_small": (422, "invalid", "#/profile", "The profile has grown too large"),
    "users_referred_by_another": (422, "invalid", "#/referred_by", "Nobody refers themselves"),
    "users_referred_by_fkey": (422, "invalid", "#/referred_by", "There is no such user"),
}
"""Constraint name → status, code, pointer, detail. A constraint that is missing here is our bug: 500."""

SQLSTATES: dict[str, tuple[int, str, str]] = {
    "22000": (422, "invalid", "A value is out of range"),  # what asyncpg itself refuses, too
    "22003": (422, "invalid", "A number is too large to be stored"),
    "22008": (422, "invalid", "A date is out of range"),
    "22021": (422, "invalid", "A text holds a character that cannot be stored"),
    "22P05": (422, "invalid", "A text holds a character that cannot be stored"),
    "54000": (422, "invalid", "A value is too large to be stored"),
    "54001": (422, "invalid", "A value is nested too deeply to be stored"),
    "40001": (503, "try-again", "The change met another one; nothing was done"),
    "40P01": (503, "try-again", "The change met another one; nothing was done"),
    "55P03": (503, "try-again", "The row is locked; nothing was done"),
    "57014": (503, "query-timeout", "The database took too long"),
    "25006": (503, "read-only", "The database takes no writes at the moment"),
    "42": (503, "schema-mismatch", SCHEMA_MISMATCH),
    "0A": (503, "schema-mismatch", SCHEMA_MISMATCH),
    "08": (503, "database-unavailable", "The database cannot be reached"),
    "28": (503, "database-unavailable", "The database cannot be reached"),
    "3D": (503, "database-unavailable", "The database cannot be reached"),
    "53": (503, "database-unavailable", "The database has run out of something"),
    "57": (503, "database-unavailable", "The database is shutting down or starting"),
}
"""SQLSTATE, or its class (the first two characters) → status, code, detail.

PostgreSQL manual, appendix A. What is missing here is our bug: 500.
"""


def find_problem(error: Exception) -> Problem | None:
    """The problem behind an error of the database or the way to it; None for a bug of ours.

    Nothing of the database's own words goes in: they name columns and hold values.
    """
    if isinstance(error, asyncpg.PostgresError):
        return find_database_problem(error)
    # TimeoutError is an OSError, so it comes first.
    if isinstance(error, TimeoutError):
        return unavailable("The database took too long", "query-timeout")
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return unavailable("The database cannot be reached", "database-unavailable")
    return None


def broken_constraint(name: str) -> Problem:
    """The problem of a constraint of the table above."""
    status, code, pointer, detail = CONSTRAINTS[name]
    return Problem(status, detail, code=code, errors=(FieldError(pointer, detail),))


def find_database_problem(error: asyncpg.PostgresError) -> Problem | None:
    """Looks the constraint up, then the SQLSTATE, then its class."""
    if str(error.constraint_name) in CONSTRAINTS:
        return broken_constraint(str(error.constraint_name))
    state = str(error.sqlstate)
    found = SQLSTATES.get(state) or SQLSTATES.get(state[:2])
    if found is None:
        return None
    status, code, detail = found
    return unavailable(detail, code) if status == 503 else Problem(status, detail, code=code)
