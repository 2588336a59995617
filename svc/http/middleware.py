"""The outermost part of the app: request ids, problems out of exceptions, the request log."""

import logging
import time

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svc.config import Networks
from svc.http.answers import answer_problem
from svc.http.headers import NO_PROXIES, find_client, take_request_id
from svc.http.logs import log_error, log_request
from svc.http.problems import Constraints, Problem, find_problem
from svc.postgres.errors import DatabaseError


def note_client(scope: Scope, proxies: Networks) -> None:
    """Note who is asking where a trusted proxy tells it."""
    if proxies:
        forwarded = (value for name, value in scope["headers"] if name == b"x-forwarded-for")
        scope["client"] = find_client(scope["client"], forwarded, proxies)


CLIENT_CLOSED_REQUEST = 499
"""nginx's code for a client that left; nobody is there to read an answer."""


class ErrorHandler:
    """Makes the answer to an error, and logs what is ours or the database's trouble.

    `constraints` are the refusals of all resources; `log_values` puts into the log what the database says
    of values as well, for development.
    """

    def __init__(self, constraints: Constraints, *, log_values: bool) -> None:
        self._constraints = constraints
        self._log_values = log_values

    def answer(self, error: Exception, request_id: bytes) -> Response:
        """Return the problem document of an error: a 500 for one that has no other."""
        problem = find_problem(error, self._constraints)
        refused = isinstance(error, Problem | DatabaseError) and error.__cause__ is None  # it says all itself
        if not refused and (problem is None or problem.status >= 500):
            level = logging.WARNING if problem else logging.ERROR
            log_error(error, request_id, level, values=self._log_values)
        problem = problem or Problem(500, "The error is ours, and it was logged under this request id")
        return answer_problem(problem, request_id)


class RequestMiddleware:
    """Gives each request its id and its client, turns every exception into a problem, logs."""

    def __init__(
        self, app: ASGIApp, errors: ErrorHandler, *, log_requests: bool, proxies: Networks = NO_PROXIES
    ) -> None:
        self._app = app
        self._errors = errors
        self._proxies = proxies
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = take_request_id(scope["headers"])
        note_client(scope, self._proxies)
        started = time.perf_counter()
        status, begun = 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id))
            await send(message)
            begun = begun or message["type"] == "http.response.body"

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            response = self._errors.answer(error, request_id)
            if begun:
                raise RuntimeError("The answer failed half-way") from None
            await response(scope, receive, send_with_id)
        finally:
            if self._log_requests:
                log_request(scope, request_id, status, time.perf_counter() - started)
