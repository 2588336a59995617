"""The log: one JSON object a line, on stderr."""

import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec

from svc.http.problems import Problem
from svc.postgres.errors import DatabaseError, describe_error

logger = logging.getLogger("svc")


def log_request(scope: Mapping[str, Any], request_id: bytes, status: int, seconds: float) -> None:
    """Write one line for a request. The query string stays out: it holds emails. A key is named by its id."""
    client = scope.get("client")
    fields = {
        "request_id": request_id.decode(),
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "milliseconds": round(seconds * 1000, 3),
        "client": client[0] if client else None,
        "key": scope.get("key_id"),
    }
    logger.info("request", extra={"fields": fields})


def log_error(error: BaseException, request_id: bytes, level: int, *, values: bool = False) -> None:
    """Write one line for an error: what it was, what it says, where it came from.

    What the database says stays out where it may hold values of rows, unless `values` asks for all of it. Of
    an error of svc/postgres/errors.py, or a Problem, its cause is told, and the frames of both.
    """
    cause = error.__cause__ if isinstance(error, DatabaseError | Problem) and error.__cause__ else error
    frames = traceback.extract_tb(error.__traceback__)
    frames += traceback.extract_tb(cause.__traceback__) if cause is not error else []
    fields = {
        "request_id": request_id.decode(),
        "error": type(cause).__qualname__,
        "detail": describe_error(cause, values=values),
        "sqlstate": getattr(cause, "sqlstate", None),
        "constraint": getattr(cause, "constraint_name", None),
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    logger.log(level, "error", extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **fields,
        }
        return msgspec.json.encode(line).decode()


def configure_logging() -> None:
    """Log JSON lines on stderr: ours from info up, the libraries' from warning up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logger.setLevel(logging.INFO)
