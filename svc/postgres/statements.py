"""The statements of queries/*.sql.

Each has a header in sqlc's grammar, a line that says what it is for, and named parameters:

    -- name: get_user :one
    -- The public view of one user.
    select {columns} from users where id = :id;

The kind says what comes back: `:one` row or none, `:many` rows, `:columns`, which is many rows as one row of
lists, nothing with `:exec`, a number of rows with `:execrows`. A parameter may be a struct, and the query
then names its fields: `:filter.is_active`; of a list of structs, each field is an array:
`:changes.id::bigint[]`. What is in braces is a snippet: see svc/postgres/snippets.py.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, cast

from msgspec import Struct

from svc.config import find_folder
from svc.postgres.snippets import (
    COMMENT,
    TOKEN,
    Block,
    Mismatch,
    Piece,
    Snippets,
    Source,
    count_comments,
    read_file,
    split_file,
)

Kind = Literal["one", "many", "columns", "exec", "execrows"]


class QueryError(Exception):
    """SQL and signatures disagree: all the places where they do."""

    def __init__(self, mismatches: Sequence[Mismatch]) -> None:
        super().__init__("\n".join(map(str, mismatches)))
        self.mismatches = mismatches


NO_TEXT = "nothing is sent but the queries that are read from .sql files"

TEXTS: "dict[Query, str]" = {}
"""What may be sent for each query that was read from a file: for itself, and for no copy of it."""


class Query(Struct, frozen=True, eq=False):
    """One statement of a .sql file. Two of them are never equal, so that one is known by being itself.

    `source` is the statement with its snippets put in, and `pieces` say where its parts come from. `sql` has
    `$1`, `$2`, … where `source` has `:name`; `parameters` holds the names in that order. `annotations` are
    what the header promises to the check: `-- @hot`, `-- @not_null: column`. What only `reads` may be run
    twice.
    """

    name: str
    kind: Kind
    doc: str
    sql: str
    parameters: tuple[str, ...]
    path: Path
    line: int
    source: str
    pieces: tuple[Piece, ...]
    annotations: dict[str, str]
    reads: bool

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.name}"

    @property
    def unindexed(self) -> frozenset[str]:
        """The parameters by which rows are walked, as no index finds them: `-- @unindexed: name: why`."""
        return frozenset(self.annotations.get("unindexed", "").partition(":")[0].replace(",", " ").split())


NAMED = re.compile(r" *(\w+) +:(one|many|columns|exec|execrows) *")
OTHER_KIND = re.compile(r" *(\w+) +:(\w+) *")
LOOSE = re.compile(r"--\s*@")
ANNOTATION = re.compile(r"-- @(\w+):? *(.*?) *")
WRITES = re.compile(r"\b(insert|update|delete|merge|lock|truncate|copy|call|do)\b", re.IGNORECASE)


@cache
def load(file: str) -> dict[str, Query]:
    """Read the queries of a file, by name. Raises QueryError."""
    path = find_folder("queries") / file
    queries = read_queries(path.read_text(encoding="utf-8"), path)
    TEXTS.update((query, query.sql) for query in queries.values())
    return queries


def find_text(query: Query) -> str:
    """Return what is sent for a query. Raises TypeError for anything that `load` has not read from a file."""
    try:
        return TEXTS[query]
    except (KeyError, TypeError):  # a Query made otherwise, or what is none and cannot be hashed
        raise TypeError(NO_TEXT) from None


def read_queries(
    text: str, path: Path, find_text: Callable[[Path], str | None] = read_file
) -> dict[str, Query]:
    """Read the queries of a file's text, by name; `find_text` gives the text of a file beside it.

    Raise QueryError with all that is no query or no snippet, or is one twice.
    """
    snippets = Snippets(lambda other: text if other == path else find_text(other))
    queries: dict[str, Query] = {}
    wrong = snippets.check(path)
    for block in split_file(text):
        if block.kind == "snippet":
            continue
        try:
            query = parse(block, path, snippets)
        except QueryError as error:
            wrong += error.mismatches
        else:
            if query.name in queries:
                wrong.append(Mismatch(path, query.line, query.name, "one query of this name", "two"))
            queries[query.name] = query
    if wrong:
        raise QueryError([*dict.fromkeys(wrong)])
    return queries


def parse(block: Block, path: Path, snippets: Snippets) -> Query:
    """Take one query apart: its header, comment lines, one statement and its semicolon. Raises QueryError."""
    named = NAMED.fullmatch(block.header)
    if named is None:
        other = OTHER_KIND.fullmatch(block.header)
        expected = "-- name: get_user :one (or :many, :columns, :exec, :execrows)"
        found = f":{other[2]}, which is not offered" if other else block.header or "SQL"
        raise QueryError([Mismatch(path, block.line, other[1] if other else "-", expected, found)])
    count = count_comments(block.lines)
    comments = [(text, ANNOTATION.fullmatch(text)) for text in block.lines[:count]]
    if loose := [text for text, found in comments if not found and LOOSE.match(text)]:
        raise QueryError([Mismatch(path, block.line, named[1], "-- @hot, with one blank", loose[0])])
    statement, rest = split_statement("\n".join(block.lines[count:]))
    source = Source(named[1], path, block.line, block.line + 1 + count, statement)
    if not statement or rest:
        raise QueryError([source.differ("one statement that ends in a semicolon", rest or "none")])
    expanded = snippets.expand(source)
    if expanded.wrong:
        raise QueryError(expanded.wrong)
    sql, parameters = number(expanded.text)
    return Query(
        name=named[1],
        kind=cast("Kind", named[2]),
        doc=" ".join(text.removeprefix("--").strip() for text, found in comments if not found),
        annotations=read_annotations([found for _, found in comments if found]),
        sql=sql,
        parameters=parameters,
        path=path,
        line=block.line,
        reads=not WRITES.search(TOKEN.sub(lambda token: token["name"] or "", expanded.text)),
        source=expanded.text,
        pieces=expanded.pieces,
    )


def number(statement: str) -> tuple[str, tuple[str, ...]]:
    """Return a statement with numbers for its parameters, and their names in that order."""
    parameters: dict[str, int] = {}

    def replace(token: re.Match[str]) -> str:
        name = token["name"]
        return f"${parameters.setdefault(name, len(parameters) + 1)}" if name else token[0]

    return TOKEN.sub(replace, statement), tuple(parameters)


def read_annotations(annotations: list[re.Match[str]]) -> dict[str, str]:
    """Return each annotation with what it says, all of its lines together."""
    found: dict[str, str] = {}
    for name, said in (annotation.groups() for annotation in annotations):
        found[name] = f"{found[name]}, {said}" if name in found else said
    return found


def split_statement(text: str) -> tuple[str, str]:
    """Return the statement before the first semicolon, and what follows that is no comment."""
    end = next((token for token in TOKEN.finditer(text) if token["end"]), None)
    if end is None:
        return "", ""
    return text[: end.start()].rstrip(), COMMENT.sub("", text[end.end() :]).strip()
