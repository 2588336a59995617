"""The outermost part of the app: request ids, problems out of exceptions, the request log."""

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svc.errors import Problem, find_problem
from svc.headers import take_request_id
from svc.web import answer_problem

logger = logging.getLogger("svc")


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


def log_request(scope: Mapping[str, Any], request_id: bytes, status: int, seconds: float) -> None:
    """One line a request. The query string stays out: it holds emails."""
    client = scope.get("client")
    fields = {
        "request_id": request_id.decode(),
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "milliseconds": round(seconds * 1000, 3),
        "client": client[0] if client else None,
    }
    logger.info("request", extra={"fields": fields})


def log_error(error: BaseException, request_id: bytes, level: int) -> None:
    """Where an error came from. Its message stays out: the database's and the driver's hold values."""
    frames = traceback.extract_tb(error.__traceback__)
    fields = {
        "request_id": request_id.decode(),
        "error": type(error).__qualname__,
        "sqlstate": getattr(error, "sqlstate", None),
        "constraint": getattr(error, "constraint_name", None),
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    logger.log(level, "error", extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **fields,
        }
        return msgspec.json.encode(line).decode()


def configure_logging() -> None:
    """JSON lines on stderr: ours from info up, the libraries' from warning up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logger.setLevel(logging.INFO)
