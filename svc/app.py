"""The application: every route, and what its handlers work with."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar, get_type_hints

import msgspec
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from svc import health
from svc.accounts.keys import ApiKeyQueries, Keys
from svc.accounts.passwords import Passwords
from svc.config import Config
from svc.http.fast_path import ShortCuts
from svc.http.logs import configure_logging, logger
from svc.http.middleware import Edge
from svc.http.operations import Endpoint, Operation, not_found
from svc.http.protocol import ReceiveLimits
from svc.postgres.batching import Limits
from svc.postgres.catalog import CatalogQueries, find_drift
from svc.postgres.migrations import MigrationQueries
from svc.postgres.pool import Database
from svc.users import exporter as user_export
from svc.users import handlers as users
from svc.users import importer as user_import
from svc.users import lists as user_lists

T = TypeVar("T")

OPERATIONS: list[Operation] = [
    *users.ROUTES,
    *user_lists.ROUTES,
    *user_export.ROUTES,
    *user_import.ROUTES,
    *health.ROUTES,
]

QUERIES = [
    ApiKeyQueries,
    CatalogQueries,
    health.HealthQueries,
    MigrationQueries,
    user_export.ExportQueries,
    user_import.ImportQueries,
    user_lists.UserListQueries,
    users.UserQueries,
]

LANES = [user_lists.EmailLane, user_lists.LookUpLane, user_lists.PageLane, users.ChangeLane, users.UserLane]
"""Each may take those before it."""

WIDTH = 2
"""Batches of a lane under way at once: two did better than one and than eight (python -m bench)."""

SINGLE = 4
"""Pages and look-ups under way at once, of each kind: with 64 that ask on two cores as many a second as
with ten, and the slowest of a hundred pages took 58 ms instead of 182, of look-ups 114 instead of 251."""

MOST = 256
"""Members of a batch."""


def create_app(config: Config) -> ASGIApp:
    """The ASGI app. Opens nothing: the lifespan does, and goes on where the database is down.

    Raises QueryError where the SQL and its signatures disagree.
    """
    configure_logging()
    database = Database(config, [pair for queries in QUERIES for pair in queries.pairs()])
    passwords = Passwords(config)
    parts: dict[object, object] = {Database: database, Passwords: passwords}
    parts |= {queries: queries.bind(database) for queries in QUERIES}
    parts[Limits] = find_limits(config)
    for lane in LANES:
        parts[lane] = fill_in(lane, parts)()
    parts |= {slots: slots(config) for slots in (user_export.ExportSlots, user_import.ImportSlots)}
    keys = Keys(ApiKeyQueries.bind(database))

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[Mapping[str, Any]]:
        # What lives as long as the process is no garbage, and what a request leaves is freed without a
        # collector, which by default looks for cycles each 700 objects.
        gc.freeze()
        gc.set_threshold(20_000)
        warming = asyncio.create_task(warm(database))
        yield {"max_body": config.max_body, "receive_limits": receive_limits, "short_cuts": short_cuts}
        warming.cancel()
        passwords.close()
        await database.close()

    supplied = [supply(operation, config, parts) for operation in OPERATIONS]
    receive_limits = ReceiveLimits(config.max_head, config.request_timeout)
    short_cuts = ShortCuts(supplied, keys.knows, config.log_requests) if config.short_cut else None
    endpoints = {
        path: Endpoint([op for op in supplied if op.path == path], keys.authorize)
        for path in dict.fromkeys(op.path for op in supplied)
    }
    # Tried one by one, 1 µs each: what has an id comes first, what only looks as if it had one comes last.
    routes = [Route(path.replace("{id}", "{id:id}"), endpoint) for path, endpoint in endpoints.items()]
    routes += [Route(path, endpoint) for path, endpoint in endpoints.items() if "{id}" in path]
    router = Router(routes, redirect_slashes=False, default=not_found, lifespan=lifespan)
    return Edge(router, log_requests=config.log_requests)


def find_limits(config: Config) -> Limits:
    """Of each lane. Without batching, a batch has one member. What is set aside leaves half of the pool."""
    width, most = (WIDTH, MOST) if config.batching else (config.pool_size, 1)
    aside = max(1, config.pool_size // 2)
    return Limits(width, SINGLE, aside, most, config.queue_size, config.acquire_timeout)


def supply(operation: Operation, config: Config, parts: Mapping[object, object]) -> Operation:
    """The operation with its handler's parameters filled in by type, all but the request."""
    is_open = operation.open_if is not None and getattr(config, operation.open_if)
    return msgspec.structs.replace(
        operation,
        handler=fill_in(operation.handler, parts),
        short_cut=fill_in(operation.short_cut, parts) if operation.short_cut else None,
        scope=None if is_open else operation.scope,
    )


def fill_in(function: Callable[..., T], parts: Mapping[object, object]) -> Callable[..., T]:
    """A function or a class with those parameters filled in whose types are parts."""
    hints = get_type_hints(vars(function)["__init__"] if isinstance(function, type) else function)
    return partial(function, **{name: parts[type_] for name, type_ in hints.items() if type_ in parts})


async def warm(database: Database) -> None:
    """Opens and proves the first connection ahead of the first request, if the database is there."""
    with suppress(Exception):
        await database.check()
        for line in await find_drift(CatalogQueries.bind(database)):
            logger.warning("not as proven: %s", line)
