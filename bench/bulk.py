"""Export and import: one request that streams many rows. Rates are rows a second."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bench.database import Table
from bench.roster import Server
from bench.work import TAGS, WorkError

IMPORTED = 100_000
NOT_OFFERED = (400, 404, 405, 422)
"""What a peer without the route answers; 422 comes where `export` is taken for an id."""

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$Z8s1bZ0m2cWq3Tz1xkq7m3mBqXbq8m3Q0m9r0m3mBqU"


class NotOffered(Exception):
    """The peer has no such route."""


class Moved(NamedTuple):
    """How many rows an export or an import has moved, and in how many seconds."""

    rows: int
    seconds: float


class ExportedUser(Struct):
    """What is looked at in a line of an export."""

    id: int


class ImportAnswer(Struct):
    """What is looked at in the answer to an import."""

    created: int


def measure_bulk(server: Server, table: Table, work: str) -> Moved:
    """Run one export or import, and check it. Raises NotOffered, WorkError, OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    try:
        return (export if work == "export" else import_)(connection, table)
    except http.client.HTTPException as error:
        raise WorkError(f"the answer ended early: {error}") from None
    finally:
        connection.close()


def read_answer(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """Read the head of an answer, which must be 200. Raises NotOffered, WorkError."""
    response = connection.getresponse()
    if response.status in NOT_OFFERED:
        raise NotOffered
    if response.status != 200:
        raise WorkError(f"status {response.status}: {response.read(200)!r}")
    return response


def export(connection: http.client.HTTPConnection, table: Table) -> Moved:
    """Read all rows; check how many they are, and the first and the last. Raises NotOffered, WorkError."""
    started = time.perf_counter()
    connection.request("GET", "/users/export", headers={"Authorization": f"Bearer {table.token}"})
    response = read_answer(connection)
    first = tail = b""
    lines = 0
    while block := response.read(1 << 20):
        first = first or block[:1000]
        lines += block.count(b"\n")
        tail = (tail + block)[-2000:]
    seconds = time.perf_counter() - started
    try:
        ends = [read_id(first.splitlines()[0]), read_id(tail.splitlines()[-1])]
    except (IndexError, ValueError):
        raise WorkError("no lines of JSON") from None
    if lines != table.rows or ends != [1, table.rows]:
        raise WorkError(f"expected {table.rows} rows from 1, found {lines}, {ends[0]} to {ends[1]}")
    return Moved(lines, seconds)


def read_id(line: bytes) -> int:
    """Return the id in a line of an export. Raises ValueError."""
    return msgspec.json.decode(line, type=ExportedUser).id


def import_(connection: http.client.HTTPConnection, table: Table) -> Moved:
    """Send 100,000 rows; the table itself tells how many have come. Raises NotOffered, WorkError."""
    tag = next(TAGS)
    body = b"".join(make_lines(tag))
    headers = {"Authorization": f"Bearer {table.token}", "Content-Type": "application/x-ndjson"}
    started = time.perf_counter()
    with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent; the answer says why
        connection.request("POST", "/users/import", body, headers)
    content = read_answer(connection).read()
    seconds = time.perf_counter() - started
    added = table.count() - table.rows
    if read_created(content) != IMPORTED or added != IMPORTED:
        raise WorkError(f"expected {IMPORTED} rows, found {content[:200]!r}, and {added} in the table")
    return Moved(added, seconds)


def read_created(content: bytes) -> int | None:
    """Return how many rows an answer to an import tells of, None where it does not say so."""
    try:
        return msgspec.json.decode(content, type=ImportAnswer).created
    except ValueError:
        return None


def make_lines(tag: int) -> Iterator[bytes]:
    """Yield the rows to import as lines of JSON."""
    for number in range(IMPORTED):
        row = {
            "email": f"import-{tag}-{number}@example.com",
            "hashed_password": HASH,
            "display_name": "Bench",
        }
        yield json.dumps(row).encode() + b"\n"
