"""What `svc check` asks of PostgreSQL's catalog, and a running service does not."""

from typing import Protocol

from msgspec import Struct

from svc.http.resource import Resource
from svc.postgres.queries import Queries


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


class Type(Struct, frozen=True):
    """A type of PostgreSQL's or of ours."""

    number: int
    name: str
    is_array: bool


class AnalysisQueries(Queries, Protocol, file="analysis.sql"):
    """queries/analysis.sql"""

    async def list_constraints(self) -> list[TableConstraint]: ...
    async def list_functions(self) -> list[Named]: ...
    async def list_operators(self) -> list[Named]: ...
    async def list_enum_labels(self) -> list[EnumLabels]: ...
    async def get_function_body(self, *, name: str) -> str | None: ...
    async def list_views(self, *, relations: list[int]) -> list[Tree]: ...
    async def list_views_of(self, *, kind: str) -> list[int]: ...
    async def list_types(self) -> list[Type]: ...
    async def list_altering(self) -> list[Altering]: ...
    async def list_parents(self) -> list[Parent]: ...
    async def list_expressions(self) -> list[ColumnTree]: ...
    async def list_references(self) -> list[Reference]: ...
    async def list_routines(self) -> list[Routine]: ...


ANALYSIS = Resource(offline_queries=[AnalysisQueries])
"""These queries, for the check to prove as well."""
