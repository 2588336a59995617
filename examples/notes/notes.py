"""Notes: /notes and /notes/{id}, with every lever of the fast path: docs/your-own-table.md."""

from typing import Protocol

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.http.answers import answer_changed, answer_created, answer_deleted, answer_found
from svc.http.fields import Id, Text
from svc.http.headers import read_if_match
from svc.http.operations import FastRoute, Operation
from svc.http.paging import IdList, IdPage, PageQuery
from svc.http.parsing import MERGE_PATCH_TYPES, parse_id, parse_plain_body, read_body, read_id
from svc.http.problems import OURS, Refusal
from svc.http.resource import Resource, Service
from svc.postgres.batching import Ids, WriteBatcher, batch_by_id
from svc.postgres.mapping import Moment
from svc.postgres.queries import Queries


class Note(Struct, frozen=True):
    """A note, as it is stored and as clients see it: it has no secrets."""

    id: int
    author_id: int
    text: str
    created_at: Moment
    version: int


class NotePage(Struct, frozen=True):
    """The answer of `GET /notes`."""

    notes: list[Note]
    next_cursor: str | None


class CreateNote(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /notes`."""

    author_id: Id
    text: Text


class UpdateNote(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PATCH /notes/{id}`."""

    text: Text


class NoteChange(Struct, frozen=True):
    """A new text for a note of any version."""

    id: int
    text: str


class NoteQueries(Queries, Protocol, file="notes.sql"):
    """queries/notes.sql"""

    async def create_note(self, *, new: CreateNote) -> Note: ...
    async def get_note(self, *, id: int) -> Note | None: ...
    async def get_notes(self, *, ids: Ids) -> list[Note]: ...
    async def list_notes(self, *, pages: list[IdPage]) -> list[list[Note]]: ...
    async def update_note(self, *, id: int, versions: list[int] | None, text: str) -> Note | None: ...
    async def update_notes(self, *, changes: list[NoteChange]) -> list[Note]: ...
    async def delete_note(self, *, id: int, versions: list[int] | None) -> int: ...


class Notes:
    """The handlers. Reads of one note leave in batches, and so do pages, and changes of any version."""

    def __init__(self, service: Service) -> None:
        self._queries = service.bind(NoteQueries)
        self.by_id = batch_by_id(service.limits, self._queries.get_note, self._queries.get_notes)
        self.list = IdList("/notes", service.limits, self._queries.list_notes, NotePage)
        self.changes = WriteBatcher[NoteChange, Note](
            service.limits,
            change_one=lambda change: self._queries.update_note(
                id=change.id, versions=None, text=change.text
            ),
            change_many=lambda changes: self._queries.update_notes(changes=changes),
        )

    async def create(self, request: Request) -> Response:
        """Create a note: 201 and where it is."""
        note = await self._queries.create_note(new=await read_body(request, CreateNote))
        return answer_created(note, f"/notes/{note.id}", note.version)

    async def get(self, request: Request) -> Response:
        """Answer one note, or 304 where the client has this version."""
        return answer_found(await self.by_id.get(read_id(request)), "note", request)

    async def update(self, request: Request) -> Response:
        """Change the text, if the client's version is the current one."""
        id_, change = read_id(request), await read_body(request, UpdateNote, MERGE_PATCH_TYPES)
        versions = read_if_match(request)
        if versions is None:
            note = await self.changes.get(NoteChange(id_, change.text))
        else:
            note = await self._queries.update_note(id=id_, versions=versions, text=change.text)
        return await answer_changed(note, "note", lambda: self._queries.get_note(id=id_))

    async def delete(self, request: Request) -> Response:
        """Remove a note: 204."""
        id_ = read_id(request)
        count = await self._queries.delete_note(id=id_, versions=read_if_match(request))
        return await answer_deleted(count, "note", lambda: self._queries.get_note(id=id_))


def read_change(id_: bytes, body: bytes, _: object) -> NoteChange | None:
    """Return a change of any version; None for what the handler must look at."""
    number, change = parse_id(id_), parse_plain_body(body, UpdateNote)
    return NoteChange(number, change.text) if number and change else None


def answer_note(_: object, note: Note | None) -> Response:
    """Return a note. Raises Problem 404 where it is not there."""
    return answer_found(note, "note")


NO_AUTHOR = Refusal(422, "invalid", "#/author_id", "There is no such user")


def build(service: Service) -> Resource:
    """Return the resource."""
    notes = Notes(service)
    fast = FastRoute(parse_id, notes.by_id.submit, answer_note)
    change = FastRoute(read_change, notes.changes.submit, answer_note, MERGE_PATCH_TYPES)
    one, read, write = "/notes/{id}", "notes:read", "notes:write"
    return Resource(
        operations=[
            Operation("GET", one, notes.get, {200: Note, 304: None}, read, fast=fast),
            Operation(
                "GET", "/notes", notes.list.get, {200: NotePage}, read, query=PageQuery, fast=notes.list.fast
            ),
            Operation("POST", "/notes", notes.create, {201: Note}, write, body=CreateNote),
            Operation(
                "PATCH", one, notes.update, {200: Note}, write, body=UpdateNote, problems=(412,), fast=change
            ),
            Operation("DELETE", one, notes.delete, {204: None}, write, problems=(412,)),
        ],
        queries=[NoteQueries],
        constraints={"notes_author_id_fkey": NO_AUTHOR, "notes_text_is_short": OURS},
        scopes={read: "Read all notes", write: "Create, change and delete notes"},
    )
