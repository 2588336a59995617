"""The query contract: queries/*.sql, bound to typed signatures.

A query has a header in sqlc's grammar, a line that says what it is for, and named parameters:

    -- name: get_user :one
    -- The public view of one user.
    select id, email from users where id = :id;

A parameter may be a struct, and the query then names its fields: `:filter.is_active`. A class declares
the signatures once, where editors and type checkers see them:

    class UserQueries(Queries, Protocol, file="users.sql"):
        async def get_user(self, *, id: int) -> User | None: ...

`UserQueries.bind(database)` makes the methods. A row becomes `Struct(*row)`: names, order and types
are proven before the first request, so nothing is looked up per row.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    Self,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from msgspec import UNSET, Struct

from svc.config import find_folder

Kind = Literal["one", "many", "exec", "execrows"]


class QueryError(Exception):
    """SQL and signatures disagree; the message has a line for each place where they do."""


class Query(Struct, frozen=True):
    """One statement of a .sql file.

    `sql` has `$1`, `$2`, … where the file has `:name`; `parameters` holds the names in that order.
    """

    name: str
    kind: Kind
    doc: str
    sql: str
    parameters: tuple[str, ...]
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.name}"


Row = Iterable[Any]
"""The values of a row in the order of its columns, as asyncpg's Record gives them."""


class Executor(Protocol):
    """What runs queries: a Database, or one transaction on it."""

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """The first row, or None."""
        ...

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """All rows."""
        ...

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        """The number of rows that were changed."""
        ...


HEADER = re.compile(r"^-- name: *(\w+) +:(one|many|exec|execrows) *$", re.MULTILINE)
TOKEN = re.compile(
    r"""
      '(?:[^']|'')*'  |  "(?:[^"]|"")*"      # text and quoted names
    | --[^\n]*        |  /\*.*?\*/           # comments
    | (\$\w*\$).*?\1                         # dollar quotes
    | ::                                     # casts
    | (?P<end>;)
    | :(?P<name>[a-z_]\w*(?:\.[a-z_]\w*)?)   # parameters
    """,
    re.VERBOSE | re.DOTALL,
)


@cache
def load(file: str) -> dict[str, Query]:
    """The queries of a file, by name. Raises QueryError for what has no header or has one twice."""
    path = find_folder("queries") / file
    text = path.read_text(encoding="utf-8")
    queries: dict[str, Query] = {}
    headers = list(HEADER.finditer(text))
    for header, end in zip(headers, [*(h.start() for h in headers[1:]), len(text)], strict=True):
        query = parse(header, text[header.end() : end], path, text.count("\n", 0, header.start()) + 1)
        if query.name in queries:
            raise QueryError(f"{query}: there are two queries of this name")
        queries[query.name] = query
    return queries


def parse(header: re.Match[str], body: str, path: Path, line: int) -> Query:
    """Takes one query apart: comment lines first, then one statement and its semicolon."""
    lines = body.strip("\n").split("\n")
    count = next((n for n, text in enumerate(lines) if not text.startswith("--")), len(lines))
    doc = " ".join(text.removeprefix("--").strip() for text in lines[:count])
    statement, rest = split_statement("\n".join(lines[count:]))
    parameters: dict[str, int] = {}

    def number(token: re.Match[str]) -> str:
        name = token["name"]
        return f"${parameters.setdefault(name, len(parameters) + 1)}" if name else token[0]

    sql = TOKEN.sub(number, statement)
    query = Query(header[1], cast("Kind", header[2]), doc, sql, tuple(parameters), path, line)
    if not sql or rest:
        raise QueryError(f"{query}: expected one statement that ends in a semicolon")
    return query


def split_statement(text: str) -> tuple[str, str]:
    """The statement before the first semicolon, and what follows that is no comment."""
    end = next((token for token in TOKEN.finditer(text) if token["end"]), None)
    if end is None:
        return "", ""
    return text[: end.start()].strip(), re.sub(r"--[^\n]*", "", text[end.end() :]).strip()


class Signature(Struct, frozen=True):
    """What Python declares of a query: `row` is the struct or the scalar of one row, None for no rows."""

    name: str
    parameters: dict[str, Any]
    row: Any
    many: bool
    optional: bool

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns that a row must have; None for a scalar, whose column may have any name."""
        return self.row.__struct_fields__ if is_struct(self.row) else None


def is_struct(type_: Any) -> bool:
    """Whether a row becomes a struct rather than a scalar."""
    return isinstance(type_, type) and issubclass(type_, Struct)


def read_signature(name: str, method: Callable[..., Any]) -> Signature:
    """Reads a method's annotations."""
    hints = get_type_hints(method, include_extras=True)
    result = hints.pop("return")
    many = get_origin(result) is list
    row = get_args(result)[0] if many else result
    optional = get_origin(row) in (Union, UnionType) and NoneType in get_args(row)
    if optional:
        row = next(type_ for type_ in get_args(row) if type_ is not NoneType)
    return Signature(name, hints, None if row is NoneType else row, many, optional)


class Queries(Protocol):
    """The signatures of one file's queries. Subclasses are Protocols, so that no body is needed."""

    _file: ClassVar[str]

    def __init_subclass__(cls, *, file: str | None = None) -> None:
        super().__init_subclass__()
        if file:
            cls._file = file

    @classmethod
    def bind(cls, executor: Executor) -> Self:
        """The queries, run by `executor`. Raises QueryError where the file and the class disagree."""
        bound = type(cls.__name__, (cls,), {})()
        for query, signature in cls.pairs():
            setattr(bound, query.name, make_call(executor, query, signature))
        return cast("Self", bound)

    @classmethod
    def pairs(cls) -> list[tuple[Query, Signature]]:
        """Each query with its signature. Raises QueryError for what is missing or differs on a side."""
        signatures = {
            name: read_signature(name, method)
            for name, method in vars(cls).items()
            if callable(method) and not name.startswith("_")
        }
        queries = load(cls._file)
        wrong = [f"{queries[name]}: no signature in {cls.__name__}" for name in queries.keys() - signatures]
        wrong += [f"{cls._file}: no query {name}" for name in signatures.keys() - queries]
        pairs = [(query, signatures[name]) for name, query in queries.items() if name in signatures]
        wrong += [line for query, signature in pairs for line in compare(query, signature)]
        if wrong:
            raise QueryError("\n".join(sorted(wrong)))
        return pairs


def compare(query: Query, signature: Signature) -> Iterable[str]:
    """What of a query and its signature disagrees, as far as that shows without a database."""
    used = {name.partition(".")[0] for name in query.parameters}
    if missing := used - signature.parameters.keys():
        yield f"{query}: the signature lacks {', '.join(sorted(missing))}"
    if extra := signature.parameters.keys() - used:
        yield f"{query}: the SQL does not use {', '.join(sorted(extra))}"
    for name in query.parameters:
        outer, dot, field = name.partition(".")
        struct = signature.parameters.get(outer)
        if struct and is_struct(struct) != bool(dot):
            yield f"{query}: :{name} fits no struct" if dot else f"{query}: :{name} is a struct"
        elif struct and dot and field not in struct.__struct_fields__:
            yield f"{query}: {struct.__name__} has no field {field}"
    expected: dict[Kind, bool] = {
        "one": signature.row is not None and not signature.many,
        "many": signature.many,
        "exec": signature.row is None,
        "execrows": signature.row is int and not signature.many and not signature.optional,
    }
    if not expected[query.kind]:
        yield f"{query}: the signature's result does not fit :{query.kind}"


def make_call(executor: Executor, query: Query, signature: Signature) -> Callable[..., Awaitable[object]]:
    """The method itself: arguments in order, one call of the executor, one struct a row."""
    arrange = make_arrange(query, signature)
    make: Callable[..., object] = signature.row if is_struct(signature.row) else itself

    async def one(**arguments: object) -> object:
        row = await executor.fetch_one(query, arrange(arguments))
        if row is None:
            if signature.optional:
                return None
            raise QueryError(f"{query} found no row, which its signature rules out")
        return make(*row)

    async def many(**arguments: object) -> object:
        return [make(*row) for row in await executor.fetch_all(query, arrange(arguments))]

    async def exec_(**arguments: object) -> object:
        await executor.change(query, arrange(arguments))
        return None

    async def execrows(**arguments: object) -> object:
        return await executor.change(query, arrange(arguments))

    call = {"one": one, "many": many, "exec": exec_, "execrows": execrows}[query.kind]
    call.__name__, call.__doc__ = query.name, query.doc
    return call


def itself(value: object) -> object:
    """The only value of a row: a scalar needs no struct."""
    return value


def make_arrange(query: Query, signature: Signature) -> Callable[[dict[str, object]], Sequence[object]]:
    """A function from a call's arguments to the statement's, in order. A field that is UNSET becomes null."""
    names = query.parameters
    paths = [name.partition(".") for name in names]
    count = len(signature.parameters)

    def plain(arguments: dict[str, object]) -> Sequence[object]:
        if len(arguments) != count:
            raise TypeError(f"{query.name} takes {', '.join(signature.parameters)}")
        return [arguments[name] for name in names]

    def nested(arguments: dict[str, object]) -> Sequence[object]:
        values = (
            getattr(arguments[outer], field) if field else arguments[outer] for outer, _, field in paths
        )
        return [None if value is UNSET else value for value in values]

    return nested if any(field for _, _, field in paths) else plain
