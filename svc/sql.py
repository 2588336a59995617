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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import cache
from operator import itemgetter
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
        """Each query with its signature. Raises QueryError with all that is missing or differs on a side."""
        pairs, wrong = cls.read()
        if wrong:
            raise QueryError(wrong)
        return pairs

    @classmethod
    def read(cls) -> tuple[list[tuple[Query, Signature]], list[Mismatch]]:
        """Each query that fits its signature, and what does not fit."""
        methods = {n: m for n, m in vars(cls).items() if callable(m) and not n.startswith("_")}
        wrong: list[Mismatch] = []
        try:
            queries = load(cls._file)
        except QueryError as error:
            return [], list(error.mismatches)
        except FileNotFoundError:
            queries = {}
        for query in queries.values():
            if query.name not in methods:
                expected = f"a signature in {cls.__name__}"
                wrong.append(Mismatch(query.path, query.line, query.name, expected, "none"))
        pairs: list[tuple[Query, Signature]] = []
        for name, method in methods.items():
            if fitting := queries.get(name):
                signature = read_signature(name, method)
                mismatches = [*compare(fitting, signature)]
                pairs += [] if mismatches else [(fitting, signature)]
                wrong += mismatches
            else:
                path, line = Path(method.__code__.co_filename), method.__code__.co_firstlineno
                wrong.append(Mismatch(path, line, name, f"a query in {cls._file}", "none"))
        return pairs, wrong


RESULTS: dict[Kind, str] = {
    "one": "a struct or a scalar",
    "many": "a list",
    "exec": "None",
    "execrows": "int",
}


def compare(query: Query, signature: Signature) -> Iterator[Mismatch]:
    """What of a query and its signature disagrees, as far as that shows without a database."""

    def differ(expected: str, found: str) -> Mismatch:
        return Mismatch(query.path, query.line, query.name, expected, found)

    used = {name.partition(".")[0] for name in query.parameters}
    for name in sorted(used - signature.parameters.keys()):
        yield differ(f"a parameter {name} in the signature", "none")
    for name in sorted(signature.parameters.keys() - used):
        yield differ(f":{name} in the SQL", "none")
    for name in query.parameters:
        outer, dot, field = name.partition(".")
        struct = signature.parameters.get(outer)
        if struct and is_struct(struct) != bool(dot):
            yield differ(
                f"a struct for :{name}" if dot else f":{name}.field, since it is a struct", f":{name}"
            )
        elif struct and dot and field not in struct.__struct_fields__:
            yield differ(f"a field {field} in {struct.__name__}", "none")
    if not result_fits(query.kind, signature):
        yield differ(f"{RESULTS[query.kind]} as the result of :{query.kind}", "another result")


def result_fits(kind: Kind, signature: Signature) -> bool:
    """Whether a signature's result is of its query's kind."""
    if kind == "one":
        return signature.row is not None and not signature.many
    if kind == "many":
        return signature.many
    return (
        not signature.many
        and not signature.optional
        and signature.row is (int if kind == "execrows" else None)
    )


def make_call(executor: Executor, query: Query, signature: Signature) -> Callable[..., Awaitable[object]]:
    """The method itself: arguments in order, one call of the executor, one struct a row."""
    arrange = make_arrange(query, signature)
    make: Callable[..., object] = signature.row if is_struct(signature.row) else itself

    fetch_one, fetch_all = executor.fetch_one, executor.fetch_all

    async def one(**arguments: object) -> object:
        row = await fetch_one(query, arrange(arguments))
        if row is None:
            if signature.optional:
                return None
            raise LookupError(f"{query} found no row, which its signature rules out")
        return make(*row)

    async def many(**arguments: object) -> object:
        return [make(*row) for row in await fetch_all(query, arrange(arguments))]

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
    paths = [name.partition(".") for name in query.parameters]
    wanted = signature.parameters.keys()
    count = len(wanted)
    nested = any(field for _, _, field in paths)
    arrange = nested_getter(paths) if nested else flat_getter(query.parameters)

    def checked(arguments: dict[str, object]) -> Sequence[object]:
        if len(arguments) == count:
            try:
                return arrange(arguments)
            except KeyError:
                pass
        raise TypeError(f"{query.name} takes {', '.join(wanted)}")

    return checked


def flat_getter(names: tuple[str, ...]) -> Callable[[dict[str, object]], Sequence[object]]:
    """Values by name. `itemgetter` of several names gives a tuple that is made in C."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda arguments: [arguments[name] for name in names]


def nested_getter(paths: list[tuple[str, str, str]]) -> Callable[[dict[str, object]], Sequence[object]]:
    """Values by name, and fields of values."""

    def get(arguments: dict[str, object]) -> Sequence[object]:
        values = (
            getattr(arguments[outer], field) if field else arguments[outer] for outer, _, field in paths
        )
        return [None if value is UNSET else value for value in values]

    return get
