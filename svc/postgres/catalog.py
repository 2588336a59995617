"""The live schema, as PostgreSQL's catalog describes it."""

from typing import Protocol

from msgspec import Struct

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
    collation: str | None
    default_value: str | None
    foreign_key: bool
    own: bool
    row_of: int | None

    def __str__(self) -> str:
        return f"{self.table_name}.{self.name}"

    @property
    def needs_value(self) -> bool:
        """Whether an insert must name it."""
        return self.not_null and self.default_value is None

    @property
    def kind(self) -> str:
        """What its values are, but for nulls; what they are computed of, too."""
        computed = (
            self.default_value if (self.default_value or "").startswith("generated always as (") else None
        )
        collation = self.collation and f"collate {self.collation}"
        return " ".join(filter(None, [self.type, collation, computed]))


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


class Fact(Struct, frozen=True, omit_defaults=True):
    """Something of the schema that queries rely on: a name, and a text that is the same wherever it is so.

    It matters to a query that names it, or that does one of the events (`read`, `insert`, `update`,
    `delete`) to the relation, with one of the columns if there are any. Not all that is there `applies`: a
    disabled trigger does not.
    """

    name: str
    text: str
    relation: str
    events: list[str]
    columns: list[str] = []
    applies: bool = True


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


class Altering(Struct, frozen=True):
    """A relation, and a statement that does not say alone what is written there: update (2), insert (3)."""

    relation: int
    statement: int


class Routine(Struct, frozen=True):
    """A function, with what can be read of its body."""

    number: int
    name: str
    signature: str
    language: str
    source: str
    tree: str | None
    plain: bool
    arguments: str | None
    result: str | None
    parts: list[int]
    inputs: int
    strict: bool
    scalar: bool


class EnumLabels(Struct, frozen=True):
    """An enum's labels, in order."""

    name: str
    labels: list[str]


class CatalogQueries(Queries, Protocol, file="catalog.sql"):
    """queries/catalog.sql"""

    async def list_columns(self, *, system: bool) -> list[Column]: ...
    async def list_unique_keys(self, *, system: bool) -> list[UniqueKey]: ...
    async def list_constraints(self) -> list[TableConstraint]: ...
    async def list_facts(self, *, relations: list[str], functions: list[str]) -> list[Fact]: ...
    async def list_functions(self) -> list[Named]: ...
    async def list_operators(self) -> list[Named]: ...
    async def list_enum_labels(self) -> list[EnumLabels]: ...
    async def get_function_body(self, *, name: str) -> str | None: ...
    async def list_views(self, *, relations: list[int]) -> list[Tree]: ...
    async def list_views_of(self, *, kind: str) -> list[int]: ...
    async def list_array_types(self) -> list[int]: ...
    async def list_altering(self) -> list[Altering]: ...
    async def list_parents(self) -> list[Parent]: ...
    async def list_expressions(self) -> list[ColumnTree]: ...
    async def list_references(self) -> list[Reference]: ...
    async def list_routines(self) -> list[Routine]: ...
