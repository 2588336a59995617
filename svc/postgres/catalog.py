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


class CatalogQueries(Queries, Protocol, file="catalog.sql"):
    """queries/catalog.sql"""

    async def list_columns(self, *, system: bool) -> list[Column]: ...
    async def list_unique_keys(self, *, system: bool) -> list[UniqueKey]: ...
    async def list_facts(self, *, relations: list[str], functions: list[str]) -> list[Fact]: ...
