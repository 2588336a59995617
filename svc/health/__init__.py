"""Whether the service lives and whether it is ready: /health/…"""

import asyncio
import logging
import time
from typing import Literal, Protocol

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.check.drift import Watch
from svc.http.answers import answer
from svc.http.operations import Operation
from svc.http.problems import FieldError, Problem
from svc.http.resource import Resource, Service
from svc.migrations import MigrationQueries, list_migrations
from svc.postgres.catalog import CatalogQueries
from svc.postgres.queries import Queries

PROBE_INTERVAL = 1.0
"""Seconds that the answer of `/health/ready` is good for."""

logger = logging.getLogger("svc")


class Status(Struct, frozen=True):
    """The answer of `/health/…` when all is well."""

    status: Literal["live", "ready"]


class HealthQueries(Queries, Protocol, file="health.sql"):
    """queries/health.sql"""

    async def get_writability(self) -> bool: ...


class Health:
    """The handlers of probes.

    A look at the database and its schema takes some 50 ms: there is one at a time, a new one each
    PROBE_INTERVAL, however many ask, and all who ask meanwhile get what it found.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._queries = service.bind(HealthQueries)
        self._migrations = service.bind(MigrationQueries)
        self.watch = Watch(service.bind(CatalogQueries))
        self._look: asyncio.Task[list[FieldError]] | None = None
        self._looked_at = 0.0
        self._told: list[FieldError] = []

    async def live(self, request: Request) -> Response:
        """Answer that the event loop turns. No database: a dead one is no reason to restart us."""
        return answer(Status("live"))

    async def ready(self, request: Request) -> Response:
        """Answer whether the database answers, takes writes, and has this release's schema; else 503.

        What is missing is told to those who have a key; to others it would tell of our tables.
        """
        failures = await self._look_lately()
        if not failures:
            return answer(Status("ready"))
        authenticator = self._service.authenticator
        known = authenticator is not None and await authenticator.knows(request)
        raise Problem(503, "Not ready", code="not-ready", errors=tuple(failures) if known else ())

    async def _look_lately(self) -> list[FieldError]:
        """Return what the last look found, or a new one. Raises what it raised."""
        now = time.monotonic()
        if self._look is None or (self._look.done() and now - self._looked_at >= PROBE_INTERVAL):
            self._looked_at = now
            self._look = asyncio.create_task(self._find_failures())
            self._look.add_done_callback(lambda look: look.cancelled() or look.exception())  # it was seen
        return await asyncio.shield(self._look)  # whoever leaves takes it from nobody

    async def _find_failures(self) -> list[FieldError]:
        """Look now; log what is wrong, unless it was so at the last look.

        A migration that only the database knows is no fault, nor is what it changed but breaks no query of
        this release: a newer one is on its way in.
        """
        database = self._service.database
        failures = [FieldError("#/schema", line) for line in await database.check()]
        drift = await self.watch.look()
        failures += [FieldError("#/schema", str(difference)) for difference in drift if difference.breaks]
        failures += [
            FieldError("#/schema", f"migration {migration.id} is {migration.state}")
            for migration in await list_migrations(self._migrations)
            if migration.state in ("pending", "edited")
        ]
        if not await self._queries.get_writability():
            failures.append(FieldError("#/database", "takes no writes"))
            database.expire()  # new connections ask where the primary is now
        if failures and failures != self._told:
            logger.warning("not ready: %s", "; ".join(f"{each.pointer} {each.detail}" for each in failures))
        self._told = failures
        return failures


def build(service: Service) -> Resource:
    """Return the resource of probes."""
    health = Health(service)
    return Resource(
        operations=[
            Operation("GET", "/health/live", health.live, {200: Status}),
            Operation("GET", "/health/ready", health.ready, {200: Status}),
        ],
        queries=[HealthQueries],
        warm=health.watch.look,
    )
