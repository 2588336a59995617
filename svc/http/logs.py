"""The log: one JSON object a line, on stderr."""

import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec

logger = logging.getLogger("svc")


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
