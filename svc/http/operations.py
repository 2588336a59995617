"""The operations of a path, and what runs them."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from svc.config import Config
from svc.http.problems import Problem, unavailable

K = TypeVar("K")
R = TypeVar("R")


class ShortCut(Struct, Generic[K, R], frozen=True):
    """How a plain GET is answered without a handler: see svc/http/fast_path.py.

    `read` makes what is asked out of the id that ends the path, or out of the query where no id does; None
    leaves the request to the handler. `ask` has its second argument called once with the row, None, or the
    error; `answer` makes the response that the handler would make, or raises the Problem.
    """

    read: Callable[[bytes], K | None]
    ask: Callable[[K, Callable[[R | None, Exception | None], None]], None]
    answer: Callable[[K, R | None], Response]


class Operation(Struct, frozen=True):
    """One method of one path, OpenAPI's word.

    `handler` takes the request and, by the types of its other parameters, what it works with: a bound
    Queries, the Passwords. `scope` is what a key must hold; None lets anyone in, as does `open_if`, the
    name of a Config flag, where that flag is set. `returns` is the struct that a good answer holds: no
    secret column may reach it, which `svc check` proves. `short_cut` makes the operation's short cut; its
    parameters are filled in as the handler's are.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Response]]
    scope: str | None = None
    returns: type[Struct] | None = None
    open_if: str | None = None
    short_cut: Callable[..., ShortCut[Any, Any]] | None = None


class Slots:
    """How many long operations of a kind a worker has under way: at most a quarter of its connections."""

    def __init__(self, config: Config) -> None:
        self._free = max(1, config.pool_size // 4)

    @contextmanager
    def take(self) -> Generator[None]:
        """One slot, for as long as a block lasts. Raises Problem 503 when all are taken."""
        if not self._free:
            raise unavailable("Too many exports or imports are under way", "overload")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Endpoint:
    """All operations of one path, as an ASGI app.

    An instance and not a function, so that Starlette adds no wrapper of its own, and one for all
    methods, so that a 405 can name them all.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        authorize: Callable[[Request, str], Awaitable[None]],
    ) -> None:
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith("\n"):  # which the `$` of Starlette's patterns lets pass
            raise Problem(404, NOTHING_HERE)
        operation = self._operations.get(scope["method"])
        if operation is None:
            allowed = ", ".join(sorted(self._operations))
            raise Problem(405, f"Only {allowed}", headers={"Allow": allowed})
        request = Request(scope, receive, send)
        if operation.scope:
            await self._authorize(request, operation.scope)
        response = await operation.handler(request)
        await response(scope, receive, send)


NOTHING_HERE = "There is nothing at this path"


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer for a path that is no route."""
    raise Problem(404, NOTHING_HERE)
