"""Databases for tests, each new."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from svc.database_url import DatabaseUrl
from tests.support import NUMBERS, TEMPLATE, at


class Databases:
    """Clones of a template, prepared or as they are."""

    def __init__(
        self,
        server_url: str,
        admin: Callable[[str], None],
        template: str,
        prepare: Callable[[str], None] = lambda url: None,
    ) -> None:
        self._server_url = server_url
        self._admin = admin
        self._template = template
        self._prepare = prepare

    @contextmanager
    def lend(self) -> Iterator[DatabaseUrl]:
        """Give a database for as long as the block lasts.

        Copied as files: by way of the log it takes twice the CPU, 27 ms against 12.
        """
        name = f"{TEMPLATE}_{next(NUMBERS)}"
        url = at(self._server_url, name)
        self._admin(f"create database {name} template {self._template} strategy file_copy")
        self._prepare(url)
        yield url
        self._admin(f"drop database {name} with (force)")
