"""The live schema, as the proofs see it, and what was proven of it: queries/proven.json."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from svc.config import find_folder
from svc.postgres.queries import Queries


class Column(Struct, frozen=True):
    """A column of a table, by its name as SQL writes it; `own` tells ours from PostgreSQL's."""

    relation: int
    number: int
    table_name: str
    name: str
    type: str
    not_null: bool
    secret: bool
    generated: bool
    has_default: bool
    foreign_key: bool
    own: bool
    row_of: int | None

    def __str__(self) -> str:
        return f"{self.table_name}.{self.name}"

    @property
    def needs_value(self) -> bool:
        """Whether an insert must name it."""
        return self.not_null and not self.has_default

    @property
    def fact(self) -> str:
        """What a query relies on."""
        return f"{self.type} not null" if self.not_null else self.type


class UniqueKey(Struct, frozen=True):
    """The columns of a key that bounds a row to one."""

    relation: int
    table_name: str
    columns: list[str]

    def __str__(self) -> str:
        return f"{self.table_name} ({', '.join(self.columns)})"


class TableConstraint(Struct, frozen=True):
    """A constraint that a row of a table may break, and the table that it refers to, if any."""

    relation: int
    referred: int | None
    name: str


class Named(Struct, frozen=True):
    """A function or an operator."""

    number: int
    name: str


class Tree(Struct, frozen=True):
    """What PostgreSQL keeps of a view."""

    relation: int
    tree: str


class ColumnTree(Struct, frozen=True):
    """What a column is computed by, or without a value."""

    relation: int
    number: int
    tree: str


class Reference(Struct, frozen=True):
    """A column of a foreign key, and the one that it refers to."""

    relation: int
    number: int
    referred: int
    other: int


class Parent(Struct, frozen=True):
    """A table, and one that it inherits from."""

    relation: int
    parent: int


class Routine(Struct, frozen=True):
    """A function, with what can be read of its body."""

    number: int
    name: str
    language: str
    source: str
    tree: str | None
    plain: bool
    arguments: str | None
    result: str | None
    parts: list[int]


class EnumLabels(Struct, frozen=True):
    """An enum's labels, in order."""

    name: str
    labels: list[str]


class CatalogQueries(Queries, Protocol, file="catalog.sql"):
    """queries/catalog.sql"""

    async def list_columns(self, *, system: bool) -> list[Column]: ...
    async def list_unique_keys(self, *, system: bool) -> list[UniqueKey]: ...
    async def list_constraints(self) -> list[TableConstraint]: ...
    async def list_functions(self) -> list[Named]: ...
    async def list_operators(self) -> list[Named]: ...
    async def list_enum_labels(self) -> list[EnumLabels]: ...
    async def get_function_body(self, *, name: str) -> str | None: ...
    async def list_views(self, *, relations: list[int]) -> list[Tree]: ...
    async def list_views_of(self, *, kind: str) -> list[int]: ...
    async def list_array_types(self) -> list[int]: ...
    async def list_parents(self) -> list[Parent]: ...
    async def list_expressions(self) -> list[ColumnTree]: ...
    async def list_references(self) -> list[Reference]: ...
    async def list_routines(self) -> list[Routine]: ...


class Facts(Struct, frozen=True):
    """What the proof of one query relied on.

    Columns with their types, keys that bound it to one row, and the columns that it fills of the tables
    that it inserts into: no other one may need a value; and the constraints that it may break.
    """

    columns: dict[str, str]
    keys: list[str]
    inserts: dict[str, list[str]]
    constraints: list[str] = []


Proven = Mapping[str, Facts]
"""The facts of each query, by its name."""

PROVEN = find_folder("queries") / "proven.json"


class Written(Struct, frozen=True, forbid_unknown_fields=True):
    """The file: the columns that were marked secret, by name, and the facts of each query."""

    secrets: list[str]
    queries: dict[str, Facts]


def read_written() -> Written:
    """Return what `svc check` wrote down last; nothing where it never ran."""
    try:
        return decode_written(PROVEN.read_bytes())
    except (
        FileNotFoundError,
        msgspec.DecodeError,
    ):  # or of another release's form, or a merge that went wrong
        return Written([], {})


def decode_written(data: bytes) -> Written:
    """Decode the file. Raises msgspec.DecodeError."""
    try:
        return msgspec.json.decode(data, type=Written)
    except msgspec.ValidationError:  # as it was before it named secrets
        return Written([], msgspec.json.decode(data, type=dict[str, Facts]))


def read_proven() -> Proven:
    """Return the facts of each query that `svc check` proved last."""
    return read_written().queries


async def find_drift(queries: CatalogQueries) -> list[str]:
    """Return the queries that would break or mean something else on this schema, each with what differs."""
    columns = {str(column): column for column in await queries.list_columns(system=False)}
    keys = {str(key) for key in await queries.list_unique_keys(system=False)}
    return [
        f"{name}: {', '.join(changes)}"
        for name, facts in read_proven().items()
        if (changes := [*compare(facts, columns, keys)])
    ]


def compare(facts: Facts, columns: Mapping[str, Column], keys: set[str]) -> Iterable[str]:
    """Yield what differs from the facts."""
    for name, fact in facts.columns.items():
        if name not in columns:
            yield f"there is no {name}"
        elif columns[name].fact != fact:
            yield f"{name} is {columns[name].fact}, proven as {fact}"
    for column in columns.values():
        if column.needs_value and column.name not in facts.inserts.get(column.table_name, [column.name]):
            yield f"{column} needs a value"
    for key in facts.keys:
        if key not in keys:
            yield f"there is no unique key on {key}"
