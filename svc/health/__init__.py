"""Whether the service lives and whether it is ready: /health/…"""

from typing import Literal, Protocol

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.http.answers import answer
from svc.http.operations import Operation
from svc.http.problems import FieldError, Problem
from svc.http.resource import Resource, Service
from svc.postgres.migrations import MigrationQueries, list_migrations
from svc.postgres.pool import Database
from svc.postgres.proven import Watch
from svc.postgres.queries import Queries


class Status(Struct, frozen=True):
    """The answer of `/health/…` when all is well."""

    status: Literal["live", "ready"]


class HealthQueries(Queries, Protocol, file="health.sql"):
    """queries/health.sql"""

    async def get_writability(self) -> bool: ...


class Health:
    """The handlers of probes."""

    def __init__(
        self,
        database: Database,
        queries: HealthQueries,
        migrations: MigrationQueries,
        schema: Watch,
    ) -> None:
        self._database = database
        self._queries = queries
        self._migrations = migrations
        self._schema = schema

    async def live(self, request: Request) -> Response:
        """Answer that the event loop turns. No database: a dead one is no reason to restart us."""
        return answer(Status("live"))

    async def ready(self, request: Request) -> Response:
        """Answer whether the database answers, takes writes, and has this release's schema; else 503.

        A migration that only the database knows is no fault, nor is what it changed but breaks no query of
        this release: a newer one is on its way in.
        """
        failures = [FieldError("#/schema", line) for line in await self._database.check()]
        drift = await self._schema.look()
        failures += [FieldError("#/schema", str(difference)) for difference in drift if difference.breaks]
        failures += [
            FieldError("#/schema", f"migration {migration.id} is {migration.state}")
            for migration in await list_migrations(self._migrations)
            if migration.state in ("pending", "edited")
        ]
        if not await self._queries.get_writability():
            failures.append(FieldError("#/database", "takes no writes"))
            self._database.expire()  # new connections ask where the primary is now
        if failures:
            raise Problem(503, "Not ready", code="not-ready", errors=tuple(failures))
        return answer(Status("ready"))


def build(service: Service) -> Resource:
    """Return the resource of probes."""
    health = Health(
        service.database,
        service.bind(HealthQueries),
        service.bind(MigrationQueries),
        service.schema,
    )
    return Resource(
        operations=[
            Operation("GET", "/health/live", health.live, {200: Status}),
            Operation("GET", "/health/ready", health.ready, {200: Status}),
        ],
        queries=[HealthQueries],
    )
