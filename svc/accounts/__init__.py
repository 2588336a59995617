"""Who may do what: API keys, and passwords."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from svc.accounts.commands import KEYS, KeyCommands, welcome
from svc.accounts.keys import ApiKeyQueries, Keys
from svc.accounts.passwords import Passwords
from svc.http.problems import OURS
from svc.http.resource import Resource, Service

CONSTRAINTS = {"api_keys_key_hash_key": OURS}
"""Two keys of 256 random bits are never the same."""


def build(service: Service) -> Resource:
    """Return what authenticates, the command that makes keys, and the end of the passwords' threads."""

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        yield
        service.share(Passwords).close()

    return Resource(
        queries=[ApiKeyQueries],
        offline_queries=[KeyCommands],
        constraints=CONSTRAINTS,
        commands=[KEYS],
        authenticator=Keys(service.bind(ApiKeyQueries)),
        revealer="svc.accounts.passwords",
        lifespan=lifespan,
        welcome=welcome,
    )
