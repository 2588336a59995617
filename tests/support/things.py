"""Things: a small resource of the tests' own, so that tests of the machinery use no table of the product's.

It has what a resource can have: a unique name, a check, a foreign key, versions, pages, fast routes, batches.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, Self

import psycopg
from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from svc.config import Config
from svc.http.answers import answer, answer_created, answer_found
from svc.http.fields import Id, Instant, JsonObject, Text
from svc.http.headers import read_if_match
from svc.http.operations import FastRoute, Operation
from svc.http.paging import IdPosition, PageQuery, Target, end_page, read_position
from svc.http.parsing import MERGE_PATCH_TYPES, parse_id, read_body, read_id, read_plain_query, read_query
from svc.http.problems import OURS, Constraints, Refusal, not_changed
from svc.http.resource import Resource
from svc.http.resource import Service as Parts
from svc.postgres.batching import ReadBatcher, WriteBatcher
from svc.postgres.pool import Database
from svc.postgres.proven import Footprint
from svc.postgres.queries import Executor, Queries
from svc.postgres.queueing import BoundedQueue, Limits, queue_each
from tests import support
from tests.support import NUMBERS, Service

FILE = str(Path(__file__).with_name("things.sql"))
TABLE = Path(__file__).with_name("things_table.sql").read_text(encoding="utf-8")

READ, WRITE = "things:read", "things:write"
SCOPES = {READ: "Read things", WRITE: "Create, change and delete things"}

CONSTRAINTS: Constraints = {
    "things_name_key": Refusal(409, "name-taken", "#/name", "A thing with this name exists"),
    "things_size_is_positive": Refusal(422, "invalid", "#/size", "A thing has a size"),
    "things_parent_fkey": Refusal(422, "invalid", "#/parent", "There is no such thing"),
    "things_details_is_object": OURS,  # JsonObject takes objects alone
}

PROVEN = {"create_thing": Footprint(constraints=[*CONSTRAINTS])}
"""What `svc check` would find of the queries, as far as the wiring asks for it."""


class CreateThing(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /things`. A size may be more than is stored, so that the database has to refuse it."""

    name: Text
    note: Text | None = None
    size: int = 1
    details: JsonObject | None = None
    parent: Id | None = None


class UpdateThing(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PATCH /things/{id}`."""

    name: Text | UnsetType = UNSET
    note: Text | None | UnsetType = UNSET
    size: int | UnsetType = UNSET
    is_open: bool | UnsetType = UNSET
    details: JsonObject | UnsetType = UNSET


class Thing(Struct, frozen=True):
    """A thing as clients see it."""

    id: int
    name: str
    note: str | None
    size: int
    is_open: bool
    details: Raw
    parent: int | None
    created_at: datetime


class StoredThing(Thing, frozen=True):
    """A thing as it is stored."""

    version: int


class ListThings(PageQuery, frozen=True, forbid_unknown_fields=True):
    """The query of `GET /things`."""

    sort: Literal["id", "name"] = "id"
    is_open: bool | None = None
    created_from: Instant | None = None


class ThingPage(Struct, frozen=True):
    """The answer of `GET /things`."""

    things: Sequence[Thing]
    next_cursor: str | None


class NamePosition(Struct, frozen=True):
    """Where a page ends that is in the order of names."""

    name: Text = ""


class PageRequest(Struct, frozen=True):
    """A page that is asked for, in these words."""

    query: ListThings
    target: Target


class ThingChange(Struct, frozen=True):
    """A change of one thing, if it is one of these versions; None for any."""

    id: int
    versions: list[int] | None
    fields: UpdateThing

    @property
    def is_small(self) -> bool:
        """Return whether it may leave in a batch: of one version at most, of what no constraint is on."""
        fields, versions = self.fields, self.versions
        is_plain = fields.name is UNSET and fields.size is UNSET and fields.details is UNSET
        return is_plain and (versions is None or len(versions) == 1)


class ThingChanges(Struct, frozen=True):
    """Small changes, column by column."""

    ids: list[int]
    versions: list[int | None]
    set_notes: list[bool]
    notes: list[str | None]
    are_open: list[bool | None]

    @classmethod
    def of(cls, changes: Sequence[ThingChange]) -> Self:
        """Return the columns; UNSET becomes null."""
        rows = [
            (
                change.id,
                change.versions[0] if change.versions else None,
                change.fields.note is not UNSET,
                change.fields.note or None,
                None if change.fields.is_open is UNSET else change.fields.is_open,
            )
            for change in changes
        ]
        return cls(*map(list, zip(*rows, strict=True)))


class ThingQueries(Queries, Protocol, file=FILE):
    """tests/support/things.sql"""

    async def create_thing(self, *, new: CreateThing) -> StoredThing: ...
    async def get_thing(self, *, id: int) -> StoredThing | None: ...
    async def get_things(self, *, ids: list[int]) -> list[StoredThing]: ...
    async def get_thing_by_name(self, *, name: str) -> StoredThing | None: ...
    async def get_things_by_name(self, *, names: list[str]) -> list[StoredThing]: ...
    async def list_things_by_id(
        self, *, filter: ListThings, after: IdPosition, limit: int
    ) -> list[StoredThing]: ...
    async def list_things_by_name(
        self, *, filter: ListThings, after: NamePosition, limit: int
    ) -> list[StoredThing]: ...
    async def update_thing(
        self, *, id: int, versions: list[int] | None, change: UpdateThing, set_note: bool, waits: bool
    ) -> StoredThing | None: ...
    async def update_things(self, *, changes: ThingChanges) -> list[StoredThing]: ...
    async def delete_thing(self, *, id: int, versions: list[int] | None) -> int: ...


class Things:
    """The handlers of things."""

    def __init__(self, queries: ThingQueries, limits: Limits) -> None:
        self._queries = queries
        self.by_id = ReadBatcher[int, StoredThing](
            limits,
            fetch_one=lambda id_: queries.get_thing(id=id_),
            fetch_many=lambda ids: queries.get_things(ids=ids),
        )
        self.by_name = ReadBatcher[str, StoredThing](
            limits,
            fetch_one=lambda name: queries.get_thing_by_name(name=name),
            fetch_many=lambda names: queries.get_things_by_name(names=names),
            find_key=lambda thing: thing.name,
        )
        self.changes = WriteBatcher[ThingChange, StoredThing](
            limits,
            change_one=lambda change: update_alone(queries, change),
            change_many=lambda changes: update_together(queries, changes),
        )
        self.pages: BoundedQueue[PageRequest, list[StoredThing]] = queue_each(
            lambda asked: find_page(queries, asked.query), limits, limits.concurrency
        )

    async def create(self, request: Request) -> Response:
        """Make a thing: 201 and where it is."""
        thing = await self._queries.create_thing(new=await read_body(request, CreateThing))
        return answer_created(show(thing), f"/things/{thing.id}", thing.version)

    async def get(self, request: Request) -> Response:
        """Answer one thing, or 304 where the client has this version."""
        return answer_found(await self.by_id.get(read_id(request)), "thing", request, show)

    async def list(self, request: Request) -> Response:
        """Answer a page, and the way to the next one."""
        asked = PageRequest(read_query(request, ListThings), Target.of(request))
        return answer_page(asked, await self.pages.get(asked))

    async def update(self, request: Request) -> Response:
        """Change the fields that are given, if the client's version is the current one."""
        id_, versions = read_id(request), read_if_match(request)
        change = ThingChange(id_, versions, await read_body(request, UpdateThing, MERGE_PATCH_TYPES))
        if change.is_small:
            thing = await self.changes.get(change)
        else:
            thing = await update_alone(self._queries, change)
        if thing is None:
            raise not_changed(await self._queries.get_thing(id=id_), "thing")
        return answer_found(thing, "thing", show=show)

    async def delete(self, request: Request) -> Response:
        """Remove a thing: 204."""
        id_ = read_id(request)
        if not await self._queries.delete_thing(id=id_, versions=read_if_match(request)):
            raise not_changed(await self._queries.get_thing(id=id_), "thing")
        return Response(status_code=204)


async def update_alone(
    queries: ThingQueries, change: ThingChange, *, waits: bool = True
) -> StoredThing | None:
    """Make one change with its own statement, which waits where the row is locked, or leaves it alone."""
    return await queries.update_thing(
        id=change.id,
        versions=change.versions,
        change=change.fields,
        set_note=change.fields.note is not UNSET,
        waits=waits,
    )


async def update_together(queries: ThingQueries, changes: Sequence[ThingChange]) -> list[StoredThing]:
    """Make small changes with one statement, which leaves alone what is locked."""
    if len(changes) > 1:
        return await queries.update_things(changes=ThingChanges.of(changes))
    thing = await update_alone(queries, changes[0], waits=False)
    return [thing] if thing else []


async def find_page(queries: ThingQueries, query: ListThings) -> list[StoredThing]:
    """Return the page's things, and one more where there is a next page."""
    limit, list_ = query.limit + 1, describe_list(query)
    if query.sort == "name":
        after = read_position(query.cursor, list_, NamePosition)
        return await queries.list_things_by_name(filter=query, after=after, limit=limit)
    start = read_position(query.cursor, list_, IdPosition)
    return await queries.list_things_by_id(filter=query, after=start, limit=limit)


def describe_list(query: ListThings) -> object:
    """Return what a cursor is tied to."""
    return query.sort, query.is_open, query.created_from


def find_position(query: ListThings, last: StoredThing) -> IdPosition | NamePosition:
    """Return where a page ended: at this thing."""
    return NamePosition(last.name) if query.sort == "name" else IdPosition(last.id)


def read_page(query_string: bytes) -> PageRequest | None:
    """Return what a plain query asks for; None for any other."""
    query = read_plain_query(query_string, ListThings)
    return PageRequest(query, Target("/things", query_string)) if query else None


def answer_page(asked: PageRequest, page: list[StoredThing] | None) -> Response:
    """Return a page and the way to the next one."""
    query, things = asked.query, page or []
    cursor, link = end_page(
        things, query.limit, asked.target, describe_list(query), lambda last: find_position(query, last)
    )
    return answer(ThingPage([*map(show, things)], cursor), lines=link)


def show(thing: StoredThing) -> Thing:
    """Return what clients see of a thing."""
    return Thing(
        thing.id,
        thing.name,
        thing.note,
        thing.size,
        thing.is_open,
        thing.details,
        thing.parent,
        thing.created_at,
    )


def build(parts: Parts) -> Resource:
    """Return the resource of things."""
    things = Things(parts.bind(ThingQueries), parts.limits)
    one, fast = "/things/{id}", FastRoute(parse_id, things.by_id.submit, answer_thing)
    pages = FastRoute(read_page, things.pages.submit, answer_page)
    return Resource(
        operations=[
            Operation("GET", one, things.get, {200: Thing, 304: None}, READ, fast=fast),
            Operation(
                "PATCH", one, things.update, {200: Thing}, WRITE, body=UpdateThing, problems=(409, 412)
            ),
            Operation("DELETE", one, things.delete, {204: None}, WRITE, problems=(412,)),
            Operation("GET", "/things", things.list, {200: ThingPage}, READ, query=ListThings, fast=pages),
            Operation(
                "POST", "/things", things.create, {201: Thing}, WRITE, body=CreateThing, problems=(409,)
            ),
        ],
        queries=[ThingQueries],
        constraints=CONSTRAINTS,
        scopes=SCOPES,
    )


def answer_thing(_: int, thing: StoredThing | None) -> Response:
    """Return a thing, or a 404."""
    return answer_found(thing, "thing", show=show)


def make_table(url: str) -> None:
    """Make the table in a database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLE.encode())


def serve_things(config: Config) -> Service:
    """Return the service with the resource of things beside the product's."""
    return Service(config, build, proven=PROVEN)


def make_key(config: Config) -> str:
    """Return a new key that may do everything with things."""
    return support.make_key(config, *SCOPES)


FILL = """insert into things (name, note) select 'thing ' || n, n::text from generate_series(1, %s) as n"""
"""The things 1 to so many, each noted as its number."""

EVERYTHING = "lock table things in access exclusive mode"
"""Makes every use of things wait."""

WRITES = "lock table things in share mode"
"""Makes every change of things wait."""


async def insert(executor: Executor) -> int:
    """Write a thing; return its id."""
    thing = await ThingQueries.bind(executor).create_thing(new=CreateThing(f"thing {next(NUMBERS)}"))
    return thing.id


async def insert_in_transaction(database: Database) -> int:
    """Write a thing inside a transaction; return its id."""
    async with database.transaction(ThingQueries) as queries:
        thing = await queries.create_thing(new=CreateThing(f"thing {next(NUMBERS)}"))
    return thing.id
