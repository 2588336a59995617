"""Every error a client can see: problem documents (RFC 9457), and what makes them of the database's."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from svc.postgres.errors import (
    ConflictError,
    ConstraintError,
    DatabaseError,
    InvalidValueError,
    OutcomeUnknownError,
    OverloadedError,
    QueryTimeoutError,
    ReadOnlyError,
    SchemaMismatchError,
    UnreachableError,
)

TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""Where RFC 9110 has other words than Python before 3.13."""


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
        """Return the body for the client."""
        return ProblemDocument(
            type=f"urn:bareline:problem:{self.code}" if self.code else "about:blank",
            title=TITLES.get(self.status) or HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            request_id=request_id,
            errors=self.errors,
        )


def unavailable(detail: str, code: str) -> Problem:
    """Return a 503: the client may try again. Nothing was done, unless the code is `outcome-unknown`."""
    return Problem(503, detail, code=code, headers={"Retry-After": "1"})


def not_found(what: str) -> Problem:
    """Return a 404 for an id that no row has."""
    return Problem(404, f"There is no {what} with this id")


def not_changed(current: object | None, what: str) -> Problem:
    """Return why a change found no row: 412 where it is there in another version, else 404."""
    if current is None:
        return not_found(what)
    return Problem(412, f"The {what} has changed since", code="changed-since")


class Refusal(Struct, frozen=True):
    """What a client is told when a constraint would be broken: status, code, where and what."""

    status: int
    code: str
    pointer: str
    detail: str

    def problem(self) -> Problem:
        """Return the problem."""
        return Problem(
            self.status, self.detail, code=self.code, errors=(FieldError(self.pointer, self.detail),)
        )


OURS: Final = None
"""In a table of constraints: no request can break it, so one that does is our bug, a 500."""

Constraints = Mapping[str, Refusal | None]
"""What is answered when a constraint would be broken, by its name."""

STATUSES: dict[type[DatabaseError], tuple[int, str]] = {
    OverloadedError: (503, "overload"),
    UnreachableError: (503, "database-unavailable"),
    QueryTimeoutError: (503, "query-timeout"),
    ReadOnlyError: (503, "read-only"),
    SchemaMismatchError: (503, "schema-mismatch"),
    OutcomeUnknownError: (503, "outcome-unknown"),
    ConflictError: (503, "try-again"),
    InvalidValueError: (422, "invalid"),
}
"""An error of the database → status and code; a constraint's are in the resource's own table."""


def find_problem(error: BaseException, constraints: Constraints) -> Problem | None:
    """Return the problem behind an error; None for a bug of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ConstraintError):
        refusal = constraints.get(error.name)
        return refusal.problem() if refusal else None
    if type(error) not in STATUSES:
        return None
    status, code = STATUSES[type(error)]  # type: ignore[index]  # it is one of them
    return unavailable(str(error), code) if status == 503 else Problem(status, str(error), code=code)
