"""The kinds of work: how each request is made, and what its answer must hold.

wrk makes the same requests in load.lua. Both take the ids at random, from 1 to the number of rows.
"""

import itertools
import json
import random
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from bench.wire import Answer, Connection

T = TypeVar("T")

MIX = ["point"] * 40 + ["page"] * 5 + ["patch"] * 4 + ["create"]
random.Random(1).shuffle(MIX)

KINDS: dict[str, list[str]] = {
    "point": ["point"],
    "page": ["page"],
    "lookup": ["lookup"],
    "patch": ["patch"],
    "create": ["create"],
    "register": ["create"],
    "mix": MIX,
}
"""The kinds of request that a work goes through, over and over, in this order."""

TITLES = {
    "point": "point read by id",
    "page": "page of 100 by keyset",
    "lookup": "look-up of 100 ids",
    "patch": "change of one field, durable",
    "create": "create, with the hash made cheap",
    "register": "register, with argon2id at the OWASP floor",
    "mix": "80 % point, 10 % page, 8 % patch, 2 % create",
    "export": "export of all rows",
    "import": "import of 100,000 rows",
}

WRITING = {"patch", "create", "register", "mix", "import"}

PAGE = LOOKUP = 100


TAGS = itertools.count(1)
"""Numbers for emails: each maker of requests in a run has one of its own."""


class WorkError(Exception):
    """A peer does not do this work as it should; the message says what came instead."""


class User(Struct, frozen=True, forbid_unknown_fields=True):
    """A user as clients see it: all fields of an answer, which are columns of the table, too."""

    id: int
    email: str
    display_name: str | None
    is_active: bool
    created_at: datetime


class Users(Struct):
    """Several users: the answer to a look-up, or a page with the cursor of the next one."""

    users: list[User]
    next_cursor: str | None = None


class Cursor(NamedTuple):
    """A cursor of a peer, and the id after which its page begins."""

    text: str
    after: int


class Request(NamedTuple):
    """A request as bytes; `check` tells what is wrong with its answer, None for nothing.

    `id` is a user's id that the answer must hold, where one is known beforehand.
    """

    raw: bytes
    check: Callable[[Answer], str | None]
    id: int | None = None


class Requests:
    """Makes requests for one table. Emails hold `tag`, a number, so that no two makers use the same."""

    def __init__(self, token: str, rows: int, tag: int, cursors: list[Cursor] | None = None) -> None:
        self.token, self.rows, self.tag, self.cursors = token, rows, tag, cursors or []
        self._random = random.Random(tag)
        self._count = 0

    def fresh(self) -> "Requests":
        """Return another maker for the same table."""
        return Requests(self.token, self.rows, next(TAGS), self.cursors)

    def make(self, work: str) -> Request:
        """Return the next request of a work."""
        kinds = KINDS[work]
        self._count += 1
        maker: Callable[[], Request] = getattr(self, kinds[self._count % len(kinds)])
        return maker()

    def format(self, method: str, path: str, content: object = None) -> bytes:
        """Return the bytes of a request with this content as JSON."""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.token}\r\n"
        if content is None:
            return f"{head}\r\n".encode()
        body = json.dumps(content, separators=(",", ":"))
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def some_id(self) -> int:
        """Return an id, at random."""
        return self._random.randint(1, self.rows)

    def point(self) -> Request:
        """Return a `GET /users/{id}`."""
        id_ = self.some_id()
        return Request(self.format("GET", f"/users/{id_}"), lambda answer: check_user(answer, id=id_), id_)

    def page(self) -> Request:
        """Return a `GET /users?limit=100&cursor=…`."""
        cursor = self._random.choice(self.cursors)
        ids = list(range(cursor.after + 1, min(cursor.after + PAGE, self.rows) + 1))
        path = f"/users?limit={PAGE}&cursor={quote(cursor.text, safe='')}"
        return Request(self.format("GET", path), lambda answer: check_users(answer, ids), ids[0])

    def lookup(self) -> Request:
        """Return a `POST /users/lookup`."""
        ids = [self.some_id() for _ in range(LOOKUP)]
        raw = self.format("POST", "/users/lookup", {"ids": ids})
        return Request(raw, lambda answer: check_users(answer, ids), ids[0])

    def patch(self) -> Request:
        """Return a `PATCH /users/{id}`."""
        id_, name = self.some_id(), f"Name {self._random.randrange(10**8):08}"
        raw = self.format("PATCH", f"/users/{id_}", {"display_name": name})
        return Request(raw, lambda answer: check_user(answer, id=id_, display_name=name), id_)

    def create(self) -> Request:
        """Return a `POST /users`."""
        email = f"bench-{self.tag}-{self._count:09}@example.com"
        content = {"email": email, "password": "correct horse", "display_name": "Bench"}
        raw = self.format("POST", "/users", content)
        return Request(raw, lambda answer: check_user(answer, email=email, display_name="Bench"))

    def prepared(self, work: str) -> str:
        """Return what load.lua cannot make itself: the order of kinds, cursors, sets of ids, one a line."""
        lines = [f"kind {kind}" for kind in KINDS[work]]
        lines += [f"cursor {quote(cursor.text, safe='')}" for cursor in self.cursors]
        if "lookup" in KINDS[work]:
            lines += ["ids " + ",".join(str(self.some_id()) for _ in range(LOOKUP)) for _ in range(400)]
        return "\n".join(lines) + "\n"


def read_answer(answer: Answer, kind: type[T]) -> T:
    """Return the content of a 2xx answer. Raises WorkError."""
    if not 200 <= answer.status < 300:
        raise WorkError(f"status {answer.status}: {answer.body[:80].decode(errors='replace')}")
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.ValidationError as error:
        raise WorkError(f"{error}: {answer.body[:80]!r}") from None
    except ValueError:
        raise WorkError(f"no JSON: {answer.body[:40]!r}") from None


def check_user(answer: Answer, **expected: object) -> str | None:
    """Return what is wrong with an answer that should be one user with these fields, None for nothing."""
    try:
        return compare_user(read_answer(answer, User), **expected)
    except WorkError as error:
        return str(error)


def compare_user(user: User, **expected: object) -> str | None:
    """Return what is wrong with one user, None for nothing."""
    for field, value in expected.items():
        if (found := getattr(user, field)) != value:
            return f"expected {field} {value}, found {found}"
    return None


def check_users(answer: Answer, ids: list[int]) -> str | None:
    """Return what is wrong with an answer that should be the users with these ids in this order, or None."""
    try:
        users = read_answer(answer, Users).users
    except WorkError as error:
        return str(error)
    if len(users) != len(ids):
        return f"expected {len(ids)} users, found {len(users)}"
    wrong = (compare_user(user, id=id_) for user, id_ in zip(users, ids, strict=True))
    return next(filter(None, wrong), None)


def collect_cursors(port: int, requests: Requests, count: int) -> list[Cursor]:
    """Return up to `count` cursors of a peer, whose pages begin every 1,000 users.

    Raises WorkError, WireError, OSError.
    """
    found: list[Cursor] = []
    path = "/users?limit=1000"
    with Connection(port) as connection:
        while len(found) < count:
            page = read_answer(connection.ask(requests.format("GET", path)), Users)
            if page.next_cursor is None or not page.users:
                break
            found.append(Cursor(page.next_cursor, page.users[-1].id))
            path = f"/users?limit=1000&cursor={quote(page.next_cursor, safe='')}"
    return found
