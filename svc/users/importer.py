"""New users, any number at once: POST /users/import.

Lines are checked as they come, and what is good goes to a temporary file; when the last line is there, one
transaction takes them all. So neither a slow client nor a thousand passwords to hash hold a connection or a
lock, and a body that was cut leaves nothing behind.
"""

import asyncio
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import Protocol, Self

import msgspec
from msgspec import UNSET, Struct
from starlette.requests import Request
from starlette.responses import Response

from svc.accounts.passwords import Password, Passwords
from svc.config import Config
from svc.http.answers import NDJSON, answer, encode
from svc.http.operations import Operation
from svc.http.parsing import BOM, MAX_ERRORS, check_media_type, invalid_body, parse_aside, parse_body
from svc.http.problems import FieldError, Problem, find_problem, unavailable
from svc.http.resource import Resource, Service
from svc.postgres.errors import DatabaseError
from svc.postgres.pool import Database, Savepoints
from svc.postgres.queries import Queries
from svc.postgres.queueing import Slots
from svc.users.constraints import CONSTRAINTS, NO_REFERRER
from svc.users.scopes import WRITE
from svc.users.structs import ImportUser

BLOCK_BYTES = 200_000
"""Bytes of an import that are parsed or loaded at once, and one line more: about a thousand users."""

SPOOL_MAX_SIZE = 1_048_576
"""Bytes of an import that are kept in memory before a file is made."""

BLOCK_LINES = 100
"""Lines of an import that are parsed together at most, beside the event loop."""


Errors = tuple[FieldError, ...]


class NewUser(Struct, frozen=True, array_like=True):
    """A user that may be created, and the number of the line that says so, from 1."""

    line: int
    email: str
    hashed_password: str
    display_name: str | None
    profile: str | None
    referred_by: int | None

    @classmethod
    def of(cls, line: int, user: ImportUser, hashed: str) -> Self:
        """Make it of a line."""
        profile = None if user.profile is None else str(user.profile)
        return cls(line, str(user.email), hashed, user.display_name, profile, user.referred_by)


class RefusedLine(Struct, frozen=True):
    """A line of an import, by its number from 1, and what is wrong with it."""

    line: int
    errors: Errors


class Imported(Struct, frozen=True):
    """The answer of `POST /users/import`: `skipped` have an email that is taken, by a line above perhaps.

    `refused` has 100 lines at most.
    """

    created: int
    skipped: int
    refused: list[RefusedLine]
    refused_count: int


class ImportQueries(Queries, Protocol, file="user_import.sql"):
    """queries/user_import.sql"""

    async def lock_referrers(self, *, ids: list[int]) -> list[int]: ...
    async def import_users(self, *, new: list[NewUser]) -> int: ...


class Importer:
    """The handler of imports. Each holds a file, and a connection at last: a few are under way at a time."""

    def __init__(self, database: Database, passwords: Passwords, config: Config) -> None:
        self._database = database
        self._passwords = passwords
        self._slots = Slots(config)
        self._most, self._seconds = config.max_import, config.transfer_timeout

    async def import_(self, request: Request) -> Response:
        """Create the users of all good lines, whatever is wrong with the others; none of them in a 503."""
        check_media_type(request, [NDJSON])
        owner = request.scope.get("key_id")
        with self._slots.acquire(owner), closing(Spool()) as spool:
            new = Import(spool, self._most)
            try:
                async with asyncio.timeout(self._seconds):
                    await new.take_in(request, self._passwords, owner)
            except TimeoutError:
                raise Problem(408, "The import took too long; nothing was done", code="too-slow") from None
            async with self._database.transaction(ImportQueries, Savepoints) as (queries, savepoints):
                created = await new.load(queries, savepoints)
        return answer(new.sum_up(created))


class Spool:
    """What is good of an import: in memory while it is small, then in a file without a name in TMPDIR.

    Each call raises Problem 503 where that file cannot be made, written or read.
    """

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile[bytes](SPOOL_MAX_SIZE)

    def write(self, line: bytes) -> None:
        """Add a line."""
        with no_room():
            self._file.write(line)

    def rewind(self) -> None:
        """Go back to the first line; what was not written yet is written now."""
        with no_room():
            self._file.seek(0)

    def read_block(self) -> list[bytes]:
        """Return some lines that follow; none after the last."""
        with no_room():
            return self._file.readlines(BLOCK_BYTES)

    def close(self) -> None:
        """Forget it all. What could not be written is tried once more, and may fail again."""
        with suppress(OSError):
            self._file.close()


@contextmanager
def no_room() -> Generator[None]:
    """Make a Problem 503 of what the disk refuses; it is logged with its cause."""
    try:
        yield
    except OSError as error:
        raise unavailable(
            "The server has no room for the import; nothing was done", code="no-room"
        ) from error


class Import:
    """One import: takes lines in, then loads what is good; counts and keeps what is refused."""

    def __init__(self, spool: "Spool", most: int) -> None:
        self._spool = spool
        self._most = self._room = most
        self._given = self._refused_count = 0
        self._refused: list[RefusedLine] = []

    async def take_in(self, request: Request, passwords: Passwords, owner: object) -> None:
        """Check every line. Raises ClientDisconnect where the body was cut.

        Raises Problem: 413 for too large an import, 503 where there is no room for it.
        """
        longest = request.state["max_body"]
        async for first, lines in number_lines(read_lines(request, longest, self._most)):
            named = MAX_ERRORS - self._refused_count
            users = await parse_aside(parse_lines, lines, longest, named)
            for number, user in enumerate(users, first):
                if isinstance(user, tuple):
                    self._refuse(number, user)
                elif user:
                    new = NewUser.of(number, user, await find_hash(user, passwords, owner))
                    self._keep(encode(new) + b"\n")
            self._given += sum(user is not None for user in users)
        self._spool.rewind()

    async def load(self, queries: ImportQueries, savepoints: Savepoints) -> int:
        """Create what is good; return how many users that were."""
        created = 0
        while lines := self._spool.read_block():
            if users := await self._find_referred(queries, [decode(line) for line in lines]):
                created += await self._create(queries, savepoints, users)
        return created

    def sum_up(self, created: int) -> Imported:
        """Return the answer."""
        skipped = self._given - self._refused_count - created
        refused = sorted(self._refused, key=attrgetter("line"))
        return Imported(created, skipped, refused, self._refused_count)

    def _keep(self, line: bytes) -> None:
        self._room -= len(line)
        if self._room < 0:
            raise too_large(self._most)
        self._spool.write(line)

    def _refuse(self, line: int, errors: Errors) -> None:
        self._refused_count += 1
        if self._refused_count <= MAX_ERRORS:
            self._refused.append(RefusedLine(line, errors))

    async def _find_referred(self, queries: ImportQueries, users: list[NewUser]) -> list[NewUser]:
        """Return the users whose referrer there is, if they name one; the others are refused."""
        named = {user.referred_by for user in users if user.referred_by is not None}
        there = {None, *(await queries.lock_referrers(ids=sorted(named)) if named else ())}
        for user in users:
            if user.referred_by not in there:
                self._refuse(user.line, NO_REFERRER.problem().errors)
        return [user for user in users if user.referred_by in there]

    async def _create(self, queries: ImportQueries, savepoints: Savepoints, users: list[NewUser]) -> int:
        """Create users; return how many. What the database refuses is found by halves."""
        try:
            async with savepoints.begin():
                return await queries.import_users(new=users)
        except DatabaseError as error:
            problem = find_problem(error, CONSTRAINTS)
            if problem is None or problem.status == 503:
                raise
        if len(users) == 1:
            self._refuse(users[0].line, list_errors(problem))
            return 0
        half = len(users) // 2
        first = await self._create(queries, savepoints, users[:half])
        return first + await self._create(queries, savepoints, users[half:])


def too_large(most: int) -> Problem:
    """Return the refusal of an import that is too large."""
    return Problem(413, f"An import may have {most} bytes; nothing was done", headers={"Connection": "close"})


async def read_lines(request: Request, longest: int, most: int) -> AsyncIterator[bytes]:
    """Yield the lines of a body without line feeds, and without a BOM in front of all.

    Of one that is too long, some bytes too many are kept. Raises Problem 413 for a body of more than `most`
    bytes.
    """
    line, size, kept, bom = bytearray(), 0, longest + 1 + len(BOM), BOM
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise too_large(most)
        *ended, begun = chunk.split(b"\n")
        for end in ended:
            line += end[: kept - len(line)]
            yield bytes(line.removeprefix(bom))
            line.clear()
            bom = b""
        line += begun[: kept - len(line)]
    yield bytes(line.removeprefix(bom))


async def number_lines(lines: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Yield the number of a line, from 1, with this line and some that follow."""
    first, block, size = 1, list[bytes](), 0
    async for line in lines:
        block.append(line)
        size += len(line)
        if len(block) == BLOCK_LINES or size >= BLOCK_BYTES:
            yield first, block
            first, block, size = first + len(block), [], 0
    yield first, block


def parse_lines(lines: Sequence[bytes], longest: int, named: int) -> list[ImportUser | Errors | None]:
    """Return the user of each line, what is wrong with it, or None for an empty one.

    What is wrong is told in full of the first `named`: to find all failing fields takes 60 µs.
    """
    parsed: list[ImportUser | Errors | None] = []
    for line in lines:
        try:
            parsed.append(parse_line(line, longest, in_full=named > 0) if line.strip() else None)
        except Problem as problem:
            named -= 1
            parsed.append(list_errors(problem))  # of the problem itself, the traceback would hold the list
    return parsed


def list_errors(problem: Problem) -> Errors:
    """Return what is wrong with a line."""
    return problem.errors or (FieldError("#", problem.detail),)


def parse_line(line: bytes, longest: int, *, in_full: bool) -> ImportUser:
    """Return the user of a line. Raises Problem for what is none."""
    if len(line) > longest:
        raise Problem(413, f"Expected a line of at most {longest} bytes")
    given = parse_body(line, ImportUser, in_full=in_full)
    if (given.password is UNSET) == (given.hashed_password is UNSET):
        raise invalid_body([((), "Expected password or hashed_password, one of the two")])
    return given


async def find_hash(user: ImportUser, passwords: Passwords, owner: object) -> str:
    """Return the hash that is given, or that of the password."""
    if user.password is UNSET:
        return str(user.hashed_password)
    return await hash_in_turn(passwords, user.password, owner)


async def hash_in_turn(passwords: Passwords, password: Password, owner: object) -> str:
    """Return the hash. An import has one password hashed at a time, and lets others go first."""
    while True:
        try:
            return await passwords.hash(password, owner)
        except Problem:
            await asyncio.sleep(0.01)


decode = msgspec.json.Decoder(NewUser).decode


def build(service: Service) -> Resource:
    """Return the resource of imports."""
    importer = Importer(service.database, service.share(Passwords), service.config)
    path, answers, problems = "/users/import", {200: Imported}, (408, 413)
    import_ = Operation("POST", path, importer.import_, answers, WRITE, line=ImportUser, problems=problems)
    return Resource(operations=[import_], queries=[ImportQueries])
