"""The query contract: the statements of queries/*.sql, bound to typed signatures.

A class declares the signatures once, where editors and type checkers see them:

    class UserQueries(Queries, Protocol, file="users.sql"):
        async def get_user(self, *, id: int) -> User | None: ...

`UserQueries.bind(database)` gives an object with these methods. A row becomes `Struct(*row)`, and the lists
of a `:columns` query one struct for each place: names, order and types are proven before the first request,
so nothing is looked up per row.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    ClassVar,
    Protocol,
    Self,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from msgspec import Struct

from svc.postgres.mapping import Arrange, find_struct, is_struct, make_arrange, make_gather, make_row
from svc.postgres.snippets import Mismatch
from svc.postgres.statements import Kind, Query, QueryError, load

Method = Callable[..., Awaitable[object]]
"""A query as a method: it takes names, and is awaited."""

Row = Iterable[Any]
"""The values of a row in the order of its columns, as asyncpg's Record gives them."""


class Executor(Protocol):
    """What runs queries: a Database, or one transaction on it."""

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        """Return the first row, or None."""
        ...

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        """Return all rows."""
        ...

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        """Return the number of rows that were changed."""
        ...


class Signature(Struct, frozen=True):
    """What Python declares of a query: `row` is the struct or the scalar of one row, None for no rows.

    Its result is a list of rows where it has `many`, and a list of such lists where it is `nested`.
    """

    name: str
    parameters: dict[str, Any]
    row: Any
    many: bool
    optional: bool
    nested: bool = False

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Return the columns that a row must have; None for a scalar, whose column may have any name."""
        return self.row.__struct_fields__ if is_struct(self.row) else None


def read_signature(name: str, method: Callable[..., Any]) -> Signature:
    """Read a method's annotations."""
    hints = get_type_hints(method, include_extras=True)
    result = hints.pop("return")
    many = get_origin(result) is list
    row = get_args(result)[0] if many else result
    nested = many and is_struct(*get_args(row)[:1]) if get_origin(row) is list else False
    row = get_args(row)[0] if nested else row
    optional = get_origin(row) in (Union, UnionType) and NoneType in get_args(row)
    if optional:
        row = next(type_ for type_ in get_args(row) if type_ is not NoneType)
    return Signature(name, hints, None if row is NoneType else row, many, optional, nested)


class Queries(Protocol):
    """The signatures of one file's queries. Subclasses are Protocols, so that no body is needed."""

    _file: ClassVar[str]

    def __init_subclass__(cls, *, file: str | None = None) -> None:
        super().__init_subclass__()
        if file:
            cls._file = file

    @classmethod
    def bind(cls, executor: Executor) -> Self:
        """Return the queries, run by `executor`. Raises QueryError where the file and the class disagree.

        This makes one small object, 0.5 µs: the methods belong to a class that is built once. So whoever has
        a connection for the length of a transaction may bind each time.
        """
        return cast("Self", build_class(cls)(executor))

    @classmethod
    def pairs(cls) -> list[tuple[Query, Signature]]:
        """Return each query with its signature. Raises QueryError with all that is missing or differs."""
        pairs, wrong = cls.read()
        if wrong:
            raise QueryError(wrong)
        return pairs

    @classmethod
    def read(cls) -> tuple[list[tuple[Query, Signature]], list[Mismatch]]:
        """Read each query that fits its signature, and what does not fit."""
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
    "columns": "a list of structs",
    "exec": "None",
    "execrows": "int",
}


def compare(query: Query, signature: Signature) -> Iterator[Mismatch]:
    """Yield what of a query and its signature disagrees, as far as it shows without a database."""

    def differ(expected: str, found: str) -> Mismatch:
        return Mismatch(query.path, query.line, query.name, expected, found)

    declared = signature.parameters
    used = {name.partition(".")[0] for name in query.parameters}
    for name in sorted(used - declared.keys()):
        yield differ(f"a parameter {name} in the signature", "none")
    for name in sorted(declared.keys() - used):
        yield differ(f":{name} in the SQL", "none")
    for name in query.parameters:
        outer, dot, field = name.partition(".")
        struct = find_struct(declared[outer]) if outer in declared else None
        if outer in declared and (struct is not None) != bool(dot):
            expected = f"a struct for :{name}" if dot else f":{name}.field, since it is a struct"
            yield differ(expected, f":{name}")
        elif struct and field not in struct.__struct_fields__:
            yield differ(f"a field {field} in {struct.__name__}", "none")
    if not result_fits(query.kind, signature):
        yield differ(f"{RESULTS[query.kind]} as the result of :{query.kind}", "another result")


def result_fits(kind: Kind, signature: Signature) -> bool:
    """Return whether a signature's result is of its query's kind."""
    if kind == "one":
        return signature.row is not None and not signature.many
    if kind == "many":
        return signature.many and not signature.nested
    if kind == "columns":
        return signature.many and not signature.optional and is_struct(signature.row)
    return (
        not signature.many
        and not signature.optional
        and signature.row is (int if kind == "execrows" else None)
    )


@cache
def build_class(queries: type[Queries]) -> Callable[[Executor], Queries]:
    """Build the class whose methods run a file's queries, once. Raises QueryError, each time it is asked."""

    def __init__(self: Any, executor: Executor) -> None:  # noqa: N807
        self._executor = executor

    methods = {query.name: make_method(query, signature) for query, signature in queries.pairs()}
    bound = type(queries.__name__, (queries,), {"__init__": __init__, **methods})
    return cast("Callable[[Executor], Queries]", bound)


def make_method(query: Query, signature: Signature) -> Method:
    """Make the method of a query: arguments in order, one call of the executor, one struct a row."""
    arrange = make_arrange(query.name, query.parameters, signature.parameters)
    method = MAKERS[query.kind](query, signature, arrange)
    method.__name__, method.__doc__ = query.name, query.doc
    return method


def make_one(query: Query, signature: Signature, arrange: Arrange) -> Method:
    """Make a method for one row, or none."""
    make = make_row(signature.row)

    async def one(self: Any, **arguments: object) -> object:
        row = await self._executor.fetch_one(query, arrange(arguments))
        if row is None:
            if signature.optional:
                return None
            raise LookupError(f"{query} found no row, which its signature rules out")
        return make(*row)

    return one


def make_many(query: Query, signature: Signature, arrange: Arrange) -> Method:
    """Make a method for a list of rows."""
    make = make_row(signature.row)

    async def many(self: Any, **arguments: object) -> object:
        return [make(*row) for row in await self._executor.fetch_all(query, arrange(arguments))]

    return many


def make_columns(query: Query, signature: Signature, arrange: Arrange) -> Method:
    """Make a method for a list of rows, or several lists, that comes as one row of lists."""
    gather = make_gather(signature.row, nested=signature.nested)

    async def columns(self: Any, **arguments: object) -> object:
        row = await self._executor.fetch_one(query, arrange(arguments))
        if row is None:
            raise LookupError(f"{query} found no row, which its kind rules out")
        return gather(row)

    return columns


def make_exec(query: Query, _: Signature, arrange: Arrange) -> Method:
    """Make a method that gives nothing back."""

    async def exec_(self: Any, **arguments: object) -> None:
        await self._executor.change(query, arrange(arguments))

    return exec_


def make_execrows(query: Query, _: Signature, arrange: Arrange) -> Method:
    """Make a method that gives back how many rows it changed."""

    async def execrows(self: Any, **arguments: object) -> object:
        return await self._executor.change(query, arrange(arguments))

    return execrows


MAKERS: dict[Kind, Callable[[Query, Signature, Arrange], Method]] = {
    "one": make_one,
    "many": make_many,
    "columns": make_columns,
    "exec": make_exec,
    "execrows": make_execrows,
}
