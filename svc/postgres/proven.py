"""What was proven of each query, and what of the schema that rests on: queries/proven.json.

`svc check` writes down what each query does (`Footprint`) and what of the schema matters to that (`Fact`),
each as text; svc/check/drift.py holds the live schema against it.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from svc.config import find_folder
from svc.postgres.catalog import Fact

PROVEN = find_folder("queries") / "proven.json"

FUNCTION, KEY, VIEW, TYPE, INDEX = "function ", "unique key on ", "view ", "type ", "index of "

NOT_NULL = " not null"


class Footprint(Struct, frozen=True, omit_defaults=True):
    """What one query names, what it does to relations, and which indexes it walks.

    `names` are columns that it reads, keys, functions, types; `not_null` are columns of which no null may
    come for its row to be as declared, and `nulls` those in which it may put one. Of inserts and updates
    stands what they set. `constraints` are those that it may break, by their names alone, as errors tell
    them.
    """

    names: list[str] = []
    not_null: list[str] = []
    nulls: list[str] = []
    reads: list[str] = []
    inserts: dict[str, list[str]] = {}
    updates: dict[str, list[str]] = {}
    deletes: list[str] = []
    walks: dict[str, list[str]] = {}
    constraints: list[str] = []

    @property
    def relations(self) -> set[str]:
        """The tables and views that it has to do with."""
        return {*self.reads, *self.inserts, *self.updates, *self.deletes, *self.walks}

    def sets(self, fact: Fact) -> bool:
        """Return whether the query writes a column."""
        written = {*self.inserts.get(fact.relation, []), *self.updates.get(fact.relation, [])}
        return bool(written & {*fact.columns})

    def relies_on(self, fact: Fact) -> bool:
        """Return whether something of the schema matters to the query."""
        return fact.name in self.names or any(self._does(event, fact) for event in fact.events)

    def find_unwalkable(self, facts: Sequence[Fact]) -> Iterator[str]:
        """Yield the indexes that the query walks, and that are neither there nor in another one."""
        for relation, indexes in self.walks.items():
            start = f"{INDEX}{relation} "
            there = [
                each.name.removeprefix(start)
                for each in facts
                if each.applies and each.name.startswith(start)
            ]
            for index in indexes:
                if not any(serves(other, index) for other in there):
                    yield f"{start}{index}"

    def _does(self, event: str, fact: Fact) -> bool:
        relation, columns = fact.relation, {*fact.columns}
        match event:
            case "set":
                return self.sets(fact)
            case "omit":
                return relation in self.inserts and not columns & {*self.inserts[relation]}
            case "update":
                return bool(changed := self.updates.get(relation, [])) and (
                    not columns or bool(columns & {*changed})
                )
            case _:
                return relation in {"read": self.reads, "insert": self.inserts, "delete": self.deletes}[event]


Proven = Mapping[str, Footprint]
"""What each query does, by its name."""


class Written(Struct, frozen=True, forbid_unknown_fields=True):
    """The file: the columns that were marked secret, what matters of the schema, what each query does."""

    secrets: list[str]
    schema: list[Fact]
    queries: dict[str, Footprint]

    def encode(self) -> bytes:
        """Return it as JSON that can be read and compared: a line for each fact and each query."""
        encoder = msgspec.json.Encoder()
        parts = {
            "secrets": [encoder.encode(name) for name in self.secrets],
            "schema": [encoder.encode(fact) for fact in self.schema],
            "queries": [
                encoder.encode(name) + b": " + encoder.encode(each) for name, each in self.queries.items()
            ],
        }
        lines = {name: b",\n  ".join(each) for name, each in parts.items()}
        form = b'{\n "secrets": [\n  %b\n ],\n "schema": [\n  %b\n ],\n "queries": {\n  %b\n }\n}\n'
        return form % (lines["secrets"], lines["schema"], lines["queries"])


def read_written() -> Written:
    """Return what `svc check` wrote down last; nothing where it never ran."""
    try:
        return decode_written(PROVEN.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):  # or a merge went wrong
        return Written([], [], {})


def decode_written(data: bytes) -> Written:
    """Decode the file; of what an older release wrote, nothing. Raises msgspec.DecodeError for no JSON."""
    try:
        return msgspec.json.decode(data, type=Written)
    except msgspec.ValidationError:
        return Written([], [], {})


def serves(index: str, wanted: str) -> bool:
    """Return whether an index can be walked as another was: it begins with the same columns, of all rows."""
    return index == wanted or (" WHERE " not in index and index.startswith((f"{wanted[:-1]},", f"{wanted} ")))
