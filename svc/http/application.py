"""The ASGI app of a service, put together out of its resources."""

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from svc.http.authentication import Authenticator
from svc.http.fast_path import FastPath
from svc.http.heads import METHODS
from svc.http.load import Load, find_max_connections
from svc.http.logs import configure_logging, logger
from svc.http.middleware import ErrorHandler, RequestMiddleware
from svc.http.operations import Endpoint, Operation, not_found
from svc.http.protocol import ReceiveLimits
from svc.http.resource import MACHINERY, Resource, Service, collect_constraints, collect_queries
from svc.postgres.errors import describe_error

GC_THRESHOLD = 20_000
"""Objects between two runs of the collector, which by default looks for cycles each 700."""

ASKED = "Authorization Content-Type Idempotency-Key If-Match If-None-Match Prefer X-Request-Id".split()
SHOWN = """Allow Content-Disposition Content-Range ETag Link Location Preference-Applied Retry-After
    WWW-Authenticate X-Last-Id X-Request-Id""".split()
"""Headers that a page of another origin may send, and read."""

SWITCH_INTERVAL = 0.001
"""Seconds after which a thread that parses lets the event loop have its turn. With Python's 5 ms a read
beside a thousand long addresses took 26 ms (p99), with this one 9."""


def make_app(service: Service, resources: Sequence[Resource]) -> ASGIApp:
    """Return the app. It opens nothing: the lifespan does, and goes on where the database is down.

    Raises QueryError where the SQL and its signatures disagree.
    """
    config, resources = service.config, [MACHINERY, *resources]
    configure_logging()
    queries = collect_queries(resources)
    service.database.pairs = [pair for each in queries for pair in each.pairs()]
    operations = [operation for resource in resources for operation in resource.operations]
    authenticator = next((resource.authenticator for resource in resources if resource.authenticator), None)
    service.authenticator = authenticator
    errors = ErrorHandler(collect_constraints(resources), log_values=config.log_errors == "full")
    state = {
        "max_body": config.max_body,
        "load": Load(find_max_connections(config.max_connections, config.pool_size), config.max_held),
        "receive_limits": ReceiveLimits(
            config.max_head, config.max_body, config.request_timeout, read_hosts(config.allowed_hosts)
        ),
        "fast_path": make_fast_path(operations, authenticator, errors, service),
    }

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[Mapping[str, Any]]:
        # What lives as long as the process is no garbage, and what a request leaves is freed without a
        # collector.
        gc.freeze()
        sys.setswitchinterval(SWITCH_INTERVAL)
        gc.set_threshold(GC_THRESHOLD)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(service.database.close)
            for resource in resources:
                if resource.lifespan:
                    await stack.enter_async_context(resource.lifespan())
            warming = asyncio.create_task(warm(service, resources))
            stack.callback(warming.cancel)
            yield state

    router = Router(
        make_routes(operations, authenticator), redirect_slashes=False, default=not_found, lifespan=lifespan
    )
    app = RequestMiddleware(router, errors, log_requests=config.log_requests, proxies=config.trusted_proxies)
    return allow_origins(app, config.allowed_origins) if config.allowed_origins else app


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return the app for pages of these origins too (https://fetch.spec.whatwg.org/#http-cors-protocol)."""
    return CORSMiddleware(
        app,
        origins,
        allow_methods=sorted(METHODS - {"TRACE", "CONNECT"}),
        allow_headers=ASKED,
        expose_headers=SHOWN,
    )


def make_routes(operations: Sequence[Operation], authenticator: Authenticator | None) -> list[Route]:
    """Return a route for each path.

    They are tried one by one, 1 µs each: what has an id comes first, what only looks as if it had one comes
    last.
    """
    endpoints = {
        path: Endpoint([each for each in operations if each.path == path], authenticator)
        for path in dict.fromkeys(each.path for each in operations)
    }
    routes = [Route(path.replace("{id}", "{id:id}"), endpoint) for path, endpoint in endpoints.items()]
    return routes + [Route(path, endpoint) for path, endpoint in endpoints.items() if "{id}" in path]


def make_fast_path(
    operations: Sequence[Operation],
    authenticator: Authenticator | None,
    errors: ErrorHandler,
    service: Service,
) -> FastPath | None:
    """Return the fast path of the operations; None where it is turned off."""
    if not service.config.short_cut:
        return None
    config = service.config
    hosts = read_hosts(config.allowed_hosts)
    return FastPath(
        operations, authenticator, errors, log_requests=config.log_requests, max_body=config.max_body,
        hosts=hosts, proxies=config.trusted_proxies, cors=bool(config.allowed_origins),
    )  # fmt: skip


def read_hosts(text: str) -> frozenset[bytes]:
    """Return the hosts that are named, without their ports."""
    return frozenset(name.strip().lower().encode() for name in text.split(",") if name.strip())


async def warm(service: Service, resources: Sequence[Resource]) -> None:
    """Open and prove the first connection ahead of the first request, if the database is there."""
    try:
        await service.database.check()
        for resource in resources:
            if resource.warm:
                await resource.warm()
    except Exception as error:
        said = describe_error(error.__cause__ or error, values=False)
        logger.warning("the database cannot be used: %s", said)
