"""The outermost part of the app: request ids, problems out of exceptions, the request log."""

import logging
import time

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svc.http.answers import answer_problem
from svc.http.headers import take_request_id
from svc.http.logs import log_error, log_request
from svc.http.problems import Problem, find_problem


class Edge:
    """The outermost app: gives each request its id, turns every exception into a problem, logs."""

    def __init__(self, app: ASGIApp, *, log_requests: bool) -> None:
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = take_request_id(scope["headers"])
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
            status = 499  # nginx's code for a client that left; nobody is there to read an answer
        except Exception as error:
            response = explain(error, request_id)
            if begun:
                raise RuntimeError("The answer failed half-way") from None
            await response(scope, receive, send_with_id)
        finally:
            if self._log_requests:
                log_request(scope, request_id, status, time.perf_counter() - started)


def explain(error: Exception, request_id: bytes) -> Response:
    """The answer to an error; what was not meant for the client is logged, be it a problem's cause."""
    problem = error if isinstance(error, Problem) else find_problem(error)
    if cause := error.__cause__ if problem is error else error:
        log_error(cause, request_id, logging.WARNING if problem else logging.ERROR)
    problem = problem or Problem(500, "The error is ours, and it was logged under this request id")
    return answer_problem(problem, request_id)
