"""The operations of a path, OpenAPI's word for one method of it, and what runs them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from svc.http.authentication import Authenticator
from svc.http.headers import read_header
from svc.http.heads import METHODS, OPTIONS_ALL, not_implemented
from svc.http.problems import Problem

K = TypeVar("K")
R = TypeVar("R")

Handler = Callable[[Request], Awaitable[Response]]


class FastRoute(Struct, Generic[K, R], frozen=True):
    """How a plain request is answered without a handler: see svc/http/fast_path.py.

    `parse` makes the key that is asked for out of the id that ends the path, or out of the query where no id
    does; None leaves the request to the handler. Where a body comes, of one of the `media_types`, it is given
    the body as well, and the id of the key that the request came with. `submit` has its second argument
    called once with the row, None, or the error, or raises it; `answer` makes the response that the handler
    would make, or raises the Problem.
    """

    parse: Callable[..., K | None]
    submit: Callable[[K, Callable[[R | None, Exception | None], None]], None]
    answer: Callable[[K, R | None], Response]
    media_types: Sequence[str] = ()


class Operation(Struct, frozen=True):
    """One method of one path, and all that is known of it.

    `scope` is what a key must hold; None lets anyone in. `body` and `query` are the structs that come in, and
    `line` that of each line of a body whose lines are refused one by one, in a good answer; `answers` has the
    struct of each good status, None for no content; `problems` are the statuses of its own problems, beside
    those that the machinery gives. What is `open` lets anyone in who brings no token; a token that comes is
    checked all the same.
    """

    method: str
    path: str
    handler: Handler
    answers: Mapping[int, Any]
    scope: str | None = None
    open: bool = False
    body: type[Struct] | None = None
    query: type[Struct] | None = None
    line: type[Struct] | None = None
    problems: tuple[int, ...] = ()
    fast: FastRoute[Any, Any] | None = None

    @property
    def statuses(self) -> frozenset[int]:
        """Return every status that it can give, as far as the request reaches it."""
        found = {*self.answers, *self.problems, 500, 503}
        found |= {401, 403} if self.scope else set()
        found |= {412} if 304 in self.answers else set()
        found |= {404} if "{" in self.path else set()
        found |= {400, 422} if self.query or self.body else set()
        found |= {413, 415} if self.body else set()
        found |= {415} if self.line else set()
        return frozenset(found)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Endpoint:
    """All operations of one path, as an ASGI app.

    An instance and not a function, so that Starlette adds no wrapper of its own, and one for all
    methods, so that a 405 can name them all.
    """

    def __init__(self, operations: Sequence[Operation], authenticator: Authenticator | None) -> None:
        self.operations = {operation.method: operation for operation in operations}
        if "GET" in self.operations:
            self.operations["HEAD"] = self.operations["GET"]
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith("\n"):  # which the `$` of Starlette's patterns lets pass
            raise Problem(404, NOTHING_HERE)
        operation = self.operations.get(scope["method"])
        if operation is None:
            await answer_other_method([*self.operations], scope, receive, send)
            return
        request = Request(scope, receive, send)
        if operation.scope and self._authenticator and not (operation.open and is_anonymous(request)):
            await self._authenticator.authorize(request, operation.scope)
        response = await operation.handler(request)
        await response(scope, receive, send)


def is_anonymous(request: Request) -> bool:
    """Return whether a request says nothing of whose it is."""
    return not read_header(request, b"authorization")


NOTHING_HERE = "There is nothing at this path"


async def answer_other_method(allowed: Sequence[str], scope: Scope, receive: Receive, send: Send) -> None:
    """Answer OPTIONS with what is allowed (RFC 9110, 9.3.7). Raises Problem: 501, or 405 for the others."""
    allow = {"Allow": ", ".join(sorted({*allowed, "OPTIONS"}))}
    if scope["method"] not in METHODS:
        raise not_implemented("This method is not known here")
    if scope["method"] != "OPTIONS":
        raise Problem(405, f"Only {allow['Allow']}", headers=allow)
    await Response(status_code=204, headers=allow)(scope, receive, send)


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer for a path that is no route; `OPTIONS *` is of the service as a whole. Raises Problem."""
    if scope["raw_path"] != OPTIONS_ALL or scope["method"] != "OPTIONS":
        raise Problem(404, NOTHING_HERE)
    await answer_other_method(["GET", "HEAD", "POST", "PATCH", "DELETE"], scope, receive, send)
