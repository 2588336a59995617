"""The resources of the service: take a line away, and its files may go."""

from collections.abc import Sequence
from pkgutil import resolve_name

from starlette.types import ASGIApp

from svc.check.wiring import check_wiring
from svc.config import Config
from svc.http.application import make_app
from svc.http.resource import Build, Resource, Service

RESOURCES = (
    "svc.accounts",
    "svc.users",
    "svc.users.lists",
    "svc.users.exporter",
    "svc.users.importer",
    "svc.users.seed",
    "svc.health",
)
"""Modules, each with a function `build` that makes a Resource."""


def build_resources(service: Service) -> list[Resource]:
    """Return all resources, with what they need. Opens nothing."""
    builds: Sequence[Build] = [resolve_name(f"{name}:build") for name in RESOURCES]
    return [build(service) for build in builds]


def create_app(config: Config) -> ASGIApp:
    """Return the ASGI app. Raises QueryError and WiringError."""
    service = Service(config)
    resources = build_resources(service)
    check_wiring(resources)
    return make_app(service, resources)
