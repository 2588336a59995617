"""Whether the service lives and whether it is ready: /health/…"""

from typing import Literal, Protocol

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.http.answers import answer
from svc.http.operations import Operation
from svc.http.problems import FieldError, Problem
from svc.postgres.catalog import CatalogQueries, find_drift
from svc.postgres.migrations import MigrationQueries, list_migrations
from svc.postgres.pool import Database
from svc.postgres.queries import Queries


class Health(Struct, frozen=True):
    """The answer of `/health/…` when all is well."""

    status: Literal["live", "ready"]


class HealthQueries(Queries, Protocol, file="health.sql"):
    """queries/health.sql"""

    async def get_writability(self) -> bool: ...


async def get_live(request: Request) -> Response:
    """The event loop turns. No database: a dead one is no reason to restart us."""
    return answer(Health("live"))


async def get_ready(
    request: Request,
    database: Database,
    health: HealthQueries,
    migrations: MigrationQueries,
    catalog: CatalogQueries,
) -> Response:
    """The database answers, takes writes, and has the schema that this release needs; else 503.

    A migration that only the database knows is no fault: a newer release is on its way in.
    """
    failures = [FieldError("#/schema", line) for line in await database.check()]
    failures += [FieldError("#/schema", line) for line in await find_drift(catalog)]
    failures += [
        FieldError("#/schema", f"migration {migration.id} is {migration.state}")
        for migration in await list_migrations(migrations)
        if migration.state in ("pending", "edited")
    ]
    if not await health.get_writability():
        failures.append(FieldError("#/database", "takes no writes"))
        database.expire()  # new connections ask where the primary is now
    if failures:
        raise Problem(503, "Not ready", code="not-ready", errors=tuple(failures))
    return answer(Health("ready"))


ROUTES = [
    Operation("GET", "/health/live", get_live, returns=Health),
    Operation("GET", "/health/ready", get_ready, returns=Health),
]
