"""The log of a service that runs in this process, on stderr."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.support import Service

Line = dict[str, Any]


class Log:
    """What the service wrote to stderr, to be read once it has stopped. No secret may be in it."""

    def __init__(self, *secrets: str) -> None:
        self.text = ""
        self._secrets = secrets

    @property
    def lines(self) -> list[Line]:
        """Return every line, out of JSON."""
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def requests(self) -> list[Line]:
        """Return the lines of requests."""
        return [line for line in self.lines if line["message"] == "request"]

    def assert_no_secrets(self, *more: str) -> None:
        """Hold that no secret and none of `more` is in it, as it is or in JSON's escapes."""
        text = f"{self.text}{self.lines}"
        assert [secret for secret in (*self._secrets, *more) if secret in text] == []


@contextmanager
def logged(
    service: Service, token: str, capfd: pytest.CaptureFixture[str], *secrets: str
) -> Iterator[tuple[httpx.Client, Log]]:
    """Run a service; give a client, and the log that there is once the service has stopped."""
    log = Log(token, *secrets)
    with service, service.client(token) as client:
        yield client, log
    log.text = capfd.readouterr().err


def forget_handlers() -> None:
    """Take away the handlers of the log: they hold the stderr of one test."""
    logging.getLogger().handlers.clear()
