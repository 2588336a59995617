"""Every status that an operation gives is one that it declares: looked at in each test, wherever it comes from."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from svc.http.operations import Endpoint, Operation
from svc.http.problems import Refusal, find_problem
from tests.support import CONSTRAINTS, things

ALL_CONSTRAINTS: Mapping[str, Refusal | None] = {**CONSTRAINTS, **things.CONSTRAINTS}

undeclared: list[str] = []
"""What was given and not declared since the last look."""

Call = Callable[[Endpoint, Scope, Receive, Send], Awaitable[None]]


@contextmanager
def watch_statuses() -> Iterator[None]:
    """Look at all that the endpoints of this process answer, and note what is not declared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Endpoint, "__call__", look_at(Endpoint.__call__))
        yield


def look_at(call: Call) -> Call:
    """Return a call of an endpoint that notes a status of its handler or of who let the request in."""

    async def watched(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        operation = endpoint.operations.get(scope["method"])
        if operation is None or scope["path"].endswith("\n"):  # another answer than an operation's
            await call(endpoint, scope, receive, send)
            return

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                note(operation, message["status"])
            await send(message)

        try:
            await call(endpoint, scope, receive, send_and_note)
        except ClientDisconnect:
            raise
        except Exception as error:
            problem = find_problem(error, ALL_CONSTRAINTS)
            note(operation, problem.status if problem else 500)
            raise

    return watched


def note(operation: Operation, status: int) -> None:
    """Note a status that an operation does not declare."""
    if status not in operation.statuses:
        declared = ", ".join(map(str, sorted(operation.statuses)))
        undeclared.append(f"{operation} gave {status}, and declares {declared}")
