"""The statements of queries/*.sql.

Each has a header in sqlc's grammar, a line that says what it is for, and named parameters:

    -- name: get_user :one
    -- The public view of one user.
    select id, email from users where id = :id;

A parameter may be a struct, and the query then names its fields: `:filter.is_active`.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, cast

from msgspec import Struct

from svc.config import find_folder

Kind = Literal["one", "many", "exec", "execrows"]


class Mismatch(Struct, frozen=True):
    """A place where SQL and signatures disagree, or where a file holds no query."""

    path: Path
    line: int
    query: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.query}: expected {self.expected}, found {self.found}"


class QueryError(Exception):
    """SQL and signatures disagree: all the places where they do."""

    def __init__(self, mismatches: Sequence[Mismatch]) -> None:
        super().__init__("\n".join(map(str, mismatches)))
        self.mismatches = mismatches


class Query(Struct, frozen=True):
    """One statement of a .sql file.

    `sql` has `$1`, `$2`, … where `source` has `:name`; `parameters` holds the names in that order. `marks`
    are what the header promises to the check: `-- @hot`, `-- @not_null: column`. What only `reads` may be
    run twice.
    """

    name: str
    kind: Kind
    doc: str
    sql: str
    parameters: tuple[str, ...]
    path: Path
    line: int
    source: str
    source_line: int
    marks: dict[str, str]
    reads: bool

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.name}"


HEADER = re.compile(r"-- name:(.*)")
NAMED = re.compile(r" *(\w+) +:(one|many|exec|execrows) *")
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
MARK = re.compile(r"-- @(\w+):? *(.*?) *")
WRITES = re.compile(r"\b(insert|update|delete|merge|lock|truncate|copy|call|do)\b", re.IGNORECASE)
TOKEN = re.compile(
    r"""
      \b[eE]'(?:\\.|''|[^'\\])*'              # text with escapes
    | '(?:[^']|'')*'  |  "(?:[^"]|"")*"      # text and quoted names
    | --[^\n]*        |  /\*(?:/\*.*?\*/|.)*?\*/  # comments, one inside another
    | (\$\w*\$).*?\1                         # dollar quotes
    | ::                                     # casts
    | (?P<end>;)
    | :(?P<name>[a-z_]\w*(?:\.[a-z_]\w*)?)   # parameters
    """,
    re.VERBOSE | re.DOTALL,
)


@cache
def load(file: str) -> dict[str, Query]:
    """The queries of a file, by name. Raises QueryError."""
    path = find_folder("queries") / file
    return read_queries(path.read_text(encoding="utf-8"), path)


def read_queries(text: str, path: Path) -> dict[str, Query]:
    """The queries of a file's text, by name. Raises QueryError with all that is no query, or is one twice."""
    queries: dict[str, Query] = {}
    wrong: list[Mismatch] = []
    for line, header, body in split_file(text):
        query = parse(header, body, path, line)
        if isinstance(query, Query) and query.name in queries:
            query = Mismatch(path, line, query.name, "one query of this name", "two")
        if isinstance(query, Mismatch):
            wrong.append(query)
        else:
            queries[query.name] = query
    if wrong:
        raise QueryError(wrong)
    return queries


def split_file(text: str) -> Iterator[tuple[int, str | None, list[str]]]:
    """The parts of a file: the number of the first line, what the header says, the lines below it.

    What comes before the first header has None for one, and is left out where it is only comments.
    """
    line, header, body = 1, None, list[str]()
    for number, content in enumerate(text.split("\n"), 1):
        if found := HEADER.fullmatch(content):
            if header is not None or COMMENT.sub("", "\n".join(body)).strip():
                yield line, header, body
            line, header, body = number, found[1], []
        else:
            body.append(content)
    if header is not None or COMMENT.sub("", "\n".join(body)).strip():
        yield line, header, body


def parse(header: str | None, lines: list[str], path: Path, line: int) -> Query | Mismatch:
    """Takes one query apart: its header, comment lines, one statement and its semicolon."""
    named = NAMED.fullmatch(header or "")
    if named is None:
        return Mismatch(
            path, line, "-", "-- name: get_user :one (or :many, :exec, :execrows)", header or "SQL"
        )
    count = next((n for n, text in enumerate(lines) if not text.startswith("--")), len(lines))
    comments = [(text, MARK.fullmatch(text)) for text in lines[:count]]
    statement, rest = split_statement("\n".join(lines[count:]))
    if not statement or rest:
        return Mismatch(path, line, named[1], "one statement that ends in a semicolon", rest or "none")
    parameters: dict[str, int] = {}

    def number(token: re.Match[str]) -> str:
        name = token["name"]
        return f"${parameters.setdefault(name, len(parameters) + 1)}" if name else token[0]

    return Query(
        name=named[1],
        kind=cast("Kind", named[2]),
        doc=" ".join(text.removeprefix("--").strip() for text, mark in comments if not mark),
        marks=read_marks([mark for _, mark in comments if mark]),
        sql=TOKEN.sub(number, statement),
        parameters=tuple(parameters),
        path=path,
        line=line,
        reads=not WRITES.search(TOKEN.sub(lambda token: token["name"] or "", statement)),
        source=statement,
        source_line=line + 1 + count,
    )


def read_marks(marks: list[re.Match[str]]) -> dict[str, str]:
    """Each mark with what it says, all of its lines together."""
    found: dict[str, str] = {}
    for mark in marks:
        found[mark[1]] = f"{found[mark[1]]}, {mark[2]}" if mark[1] in found else mark[2]
    return found


def split_statement(text: str) -> tuple[str, str]:
    """The statement before the first semicolon, and what follows that is no comment."""
    end = next((token for token in TOKEN.finditer(text) if token["end"]), None)
    if end is None:
        return "", ""
    return text[: end.start()].rstrip(), COMMENT.sub("", text[end.end() :]).strip()
