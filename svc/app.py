"""The application: every route, and what its handlers work with."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import groupby
from typing import Any, get_type_hints

import msgspec
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from svc import health, users
from svc.catalog import CatalogQueries, find_drift
from svc.config import Config
from svc.db import Database
from svc.schema import MigrationQueries
from svc.security import ApiKeyQueries, Keys, Passwords
from svc.web import Edge, Endpoint, Operation, configure_logging, logger, not_found

OPERATIONS: list[Operation] = [*users.ROUTES, *health.ROUTES]

QUERIES = [ApiKeyQueries, CatalogQueries, health.HealthQueries, MigrationQueries, users.UserQueries]


def create_app(config: Config) -> ASGIApp:
    """The ASGI app. Opens nothing: the lifespan does, and goes on where the database is down.

    Raises QueryError where the SQL and its signatures disagree.
    """
    configure_logging()
    database = Database(config, [pair for queries in QUERIES for pair in queries.pairs()])
    passwords = Passwords(config)
    parts: dict[object, object] = {Database: database, Passwords: passwords}
    parts |= {queries: queries.bind(database) for queries in QUERIES}
    keys = Keys(ApiKeyQueries.bind(database))

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[Mapping[str, Any]]:
        # What lives as long as the process is no garbage, and what a request leaves is freed without a
        # collector, which by default looks for cycles each 700 objects.
        gc.freeze()
        gc.set_threshold(20_000)
        warming = asyncio.create_task(warm(database))
        yield {"max_body": config.max_body}
        warming.cancel()
        passwords.close()
        await database.close()

    supplied = [supply(operation, config, parts) for operation in OPERATIONS]
    routes = [
        Route(path, Endpoint(list(operations), keys.authorize))
        for path, operations in groupby(supplied, key=lambda operation: operation.path)
    ]
    router = Router(routes, redirect_slashes=False, default=not_found, lifespan=lifespan)
    return Edge(router, log_requests=config.log_requests)


def supply(operation: Operation, config: Config, parts: Mapping[object, object]) -> Operation:
    """The operation with its handler's parameters filled in by type, all but the request."""
    hints = get_type_hints(operation.handler)
    arguments = {name: parts[type_] for name, type_ in hints.items() if type_ in parts}
    is_open = operation.open_if is not None and getattr(config, operation.open_if)
    return msgspec.structs.replace(
        operation,
        handler=partial(operation.handler, **arguments),
        scope=None if is_open else operation.scope,
    )


async def warm(database: Database) -> None:
    """Opens and proves the first connection ahead of the first request, if the database is there."""
    with suppress(Exception):
        await database.check()
        for line in await find_drift(CatalogQueries.bind(database)):
            logger.warning("not as proven: %s", line)
