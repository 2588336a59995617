"""What a resource says of itself: one value with all that it owns.

A resource is a module with a function `build(service: Service) -> Resource`, and a line in svc/app.py. The
app, the fast path, `svc check`, `svc keys` and the other commands read the value; nothing else has to be
told that the resource is there.
"""

import argparse
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar, cast

from msgspec import Struct

from svc.config import Config
from svc.http.authentication import Authenticator
from svc.http.operations import Operation
from svc.http.problems import OURS, Constraints
from svc.migrations import MigrationQueries
from svc.postgres.catalog import CatalogQueries
from svc.postgres.pool import Database
from svc.postgres.queries import Queries, Signature
from svc.postgres.queueing import Limits
from svc.postgres.snippets import Mismatch
from svc.postgres.statements import Query

T = TypeVar("T")
Q = TypeVar("Q", bound=Queries)


class Service:
    """What resources are built with: the configuration, the database, limits, and what they share.

    Nothing is opened when it is made: the database connects when it is first asked.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.database = Database(config)
        self.limits = Limits.of(config)
        self.authenticator: Authenticator | None = None
        """That of the resources, once there is an app."""
        self._shared: dict[object, object] = {}

    def bind(self, queries: type[Q]) -> Q:
        """Return queries that run on the database. Raises QueryError where SQL and signatures disagree."""
        return queries.bind(self.database)

    def share(self, make: Callable[[Config], T]) -> T:
        """Return what `make` makes of the configuration: the same one to every resource that asks."""
        if make not in self._shared:
            self._shared[make] = make(self.config)
        return cast("T", self._shared[make])


class Outline(Service):
    """A service that is looked at and never run: its resources say what they own, and nothing is bound.

    So `svc check` can tell of every query that does not fit its signature, where a start ends at the first.
    """

    def bind(self, queries: type[Q]) -> Q:
        """Return something that stands in the place of the queries."""
        return cast("Q", Unbound())


class Unbound:
    """Stands for queries that are not bound, and for each of them."""

    def __getattr__(self, name: str) -> "Unbound":
        return self

    def __call__(self, *_: object, **__: object) -> "Unbound":
        return self


class QueryClass(Protocol):
    """A class of queries, as the machinery uses it: `type[Queries]` would let no Protocol in."""

    def pairs(self) -> list[tuple[Query, Signature]]:
        """Return each query with its signature."""
        ...

    def read(self) -> tuple[list[tuple[Query, Signature]], list[Mismatch]]:
        """Return each query that fits its signature, and what does not fit."""
        ...


class CommandError(Exception):
    """A command cannot do what it was asked to; the message says why. Nothing was changed."""


class Command(Struct, frozen=True):
    """A command of `svc` that a resource brings: `svc keys`, `svc seed`.

    `configure` adds its options to a parser, and sets `run` among the parser's defaults: a function of the
    configuration and the parsed options that returns the exit code. It is given all resources.
    """

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser, Sequence["Resource"]], None]


def read_positive(text: str) -> int:
    """Return an option's number, from 1 to int8's largest."""
    if re.fullmatch(r"[1-9][0-9]{0,18}", text) and int(text) < 2**63:
        return int(text)
    raise argparse.ArgumentTypeError("expected a number from 1 up")


Lifespan = Callable[[], AbstractAsyncContextManager[None]]
Welcome = Callable[[Config, Sequence["Resource"], str], str | None]


class Resource(Struct, frozen=True, kw_only=True):
    """All that one resource owns.

    `constraints` has an answer for each constraint of the tables that its queries write, or OURS; `scopes`
    says what each of its scopes allows. `offline_queries` are those that its commands alone run: a running
    service neither proves nor misses them. `lifespan` surrounds the life of the service; `warm`
    is awaited at its start, once the database is there, while requests are served already. `welcome` is asked
    once, on the first start of an embedded database, with the service's address, and `examples` are lines
    for a shell that it may show, with `{address}` and `$KEY` in them. One resource has the `authenticator`,
    and one names the `revealer`, the module that alone may look at what is secret.
    """

    operations: Sequence[Operation] = ()
    queries: Sequence[QueryClass] = ()
    offline_queries: Sequence[QueryClass] = ()
    constraints: Constraints = {}
    scopes: Mapping[str, str] = {}
    commands: Sequence[Command] = ()
    authenticator: Authenticator | None = None
    revealer: str = ""
    lifespan: Lifespan | None = None
    warm: Callable[[], Awaitable[object]] | None = None
    welcome: Welcome | None = None
    examples: str = ""


Build = Callable[[Service], Resource]

MACHINERY = Resource(
    queries=[CatalogQueries, MigrationQueries], constraints={"migration_checksums_pkey": OURS}
)
"""What the machinery itself asks of the database and writes there."""


def collect_constraints(resources: Sequence[Resource]) -> dict[str, Any]:
    """Return the constraints of all resources."""
    return {name: refusal for resource in resources for name, refusal in resource.constraints.items()}


def collect_queries(resources: Sequence[Resource], *, offline: bool = False) -> list[QueryClass]:
    """Return the classes of queries of all resources; those of their commands as well where asked for."""
    served = [queries for resource in resources for queries in resource.queries]
    return [*served, *(q for resource in resources if offline for q in resource.offline_queries)]


def collect_scopes(resources: Sequence[Resource]) -> list[str]:
    """Return the names of all scopes that a key may hold."""
    return sorted({scope for resource in resources for scope in resource.scopes})
