"""Many rows as one row of lists, arrays or JSON, and lists of structs as arrays: by name, both ways."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw, Struct, UnsetType

from svc.check.scratch import connect
from svc.postgres.mapping import Moment, make_arrange, make_gather
from svc.postgres.queries import Queries, Row, compare, read_signature
from svc.postgres.statements import Query, read_queries
from tests.support import make_config


class Pair(Struct, frozen=True):
    id: int
    name: str | None = None
    size: int | None = None


class Change(Struct, frozen=True, kw_only=True):
    name: str | None | UnsetType = UNSET
    id: int


FILE = """
-- name: list_pairs :columns
select coalesce(array_agg(id), '{}') as id, coalesce(array_agg(name), '{}') as name,
    array_agg(id + 10) filter (where :with_size) as size
from (select id, name from pairs order by id) as ordered;
-- name: change_pairs :execrows
update pairs set name = change.name
from unnest(:changes.id::int[], :changes.name::text[]) as change (id, name)
where pairs.id = change.id and pairs.id < :most;
"""


class PairQueries(Queries, Protocol, file="columns.sql"):
    async def list_pairs(self, *, with_size: bool) -> list[Pair]: ...
    async def change_pairs(self, *, changes: list[Change], most: int) -> int: ...


@pytest.fixture(autouse=True)
def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svc.postgres.statements.find_folder", lambda _: tmp_path)
    (tmp_path / "columns.sql").write_text(FILE)


def test_rows_come_as_structs_and_structs_go_as_arrays(empty_url: Any) -> None:
    async def run() -> list[object]:
        connection = await connect(make_config(empty_url))
        await connection.execute("create table pairs (id int, name text)")
        pairs = PairQueries.bind(connection)
        seen: list[object] = [await pairs.list_pairs(with_size=True)]
        await connection.execute("insert into pairs values (1, 'one'), (2, null), (3, 'three')")
        seen += [await pairs.list_pairs(with_size=False), await pairs.list_pairs(with_size=True)]
        changes = [Change(id=3), Change(name="two", id=2), Change(name=None, id=1), Change(name="x", id=9)]
        seen += [await pairs.change_pairs(changes=changes, most=4), await pairs.list_pairs(with_size=False)]
        seen += [await pairs.change_pairs(changes=[], most=4)]
        await connection.close()
        return seen

    assert asyncio.run(run()) == [
        [],
        [Pair(1, "one"), Pair(2), Pair(3, "three")],
        [Pair(1, "one", 11), Pair(2, None, 12), Pair(3, "three", 13)],
        3,
        [Pair(1), Pair(2, "two"), Pair(3)],
        0,
    ]


class Answering:
    """Answers every query with the same row."""

    def __init__(self, row: Row | None) -> None:
        self.row = row

    async def fetch_one(self, query: Query, arguments: Sequence[object]) -> Row | None:
        return self.row

    async def fetch_all(self, query: Query, arguments: Sequence[object]) -> Sequence[Row]:
        return []

    async def change(self, query: Query, arguments: Sequence[object]) -> int:
        return 0


def test_one_row_of_arrays_must_be_there() -> None:
    with pytest.raises(LookupError, match="list_pairs"):
        asyncio.run(PairQueries.bind(Answering(None)).list_pairs(with_size=True))


@pytest.mark.parametrize("row", [(None, None, None), (None, ["a"], None)])
def test_arrays_without_a_first_one_are_an_error_and_no_endless_list(row: Row) -> None:
    with pytest.raises(TypeError):
        asyncio.run(PairQueries.bind(Answering(row)).list_pairs(with_size=True))


@given(
    st.lists(st.tuples(st.integers(), st.none() | st.text(), st.none() | st.integers())),
    st.sets(st.just(1) | st.just(2)),
)
def test_arrays_become_the_structs_that_rows_would_have_become(
    rows: list[tuple[int, str | None, int | None]], lacking: set[int]
) -> None:
    """Whichever arrays are null as a whole."""
    columns: list[list[Any] | None] = [[row[n] for row in rows] for n in range(3)]
    for number in lacking:
        columns[number] = None
        rows = [(*row[:number], None, *row[number + 1 :]) for row in rows]
    assert make_gather(Pair)(columns) == [Pair(*row) for row in rows]


def write_json(values: object) -> Raw:
    """Return JSON as PostgreSQL's `json_agg` writes it."""
    return Raw(json.dumps(values, ensure_ascii=False).encode())


class Event(Struct):
    id: int
    at: Moment
    label: str | None
    notes: Raw | None = None


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
EVENTS = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.none() | TEXTS | st.just('a", "b"], ["'),
)


@given(st.lists(st.lists(EVENTS), min_size=1), st.booleans())
def test_json_becomes_the_structs_that_rows_would_have_become(
    lists: list[list[tuple[int, str, str | None]]], with_notes: bool
) -> None:
    """And lists of lists, lists of structs; a moment gets its Z, and a text that looks like one does not."""
    notes = [[{"n": event[0], "a": '"]'} for event in events] for events in lists]
    wanted = [
        [
            Event(id_, f"{at}Z", label, write_json(note) if with_notes else None)
            for (id_, at, label), note in zip(events, lacking, strict=True)
        ]
        for events, lacking in zip(lists, notes, strict=True)
    ]
    columns = [[[event[n] for event in events] for events in lists] for n in range(3)]
    written = [*map(write_json, [*columns, notes if with_notes else [None] * len(lists)])]
    assert make_gather(Event, nested=True)(written) == wanted
    first = [write_json(column[0]) for column in columns]
    assert make_gather(Event)([*first, write_json(notes[0]) if with_notes else None]) == wanted[0]


class Strict(Struct):
    id: int
    name: str | None


def test_a_null_array_of_a_field_without_a_default_is_of_nulls() -> None:
    assert make_gather(Strict)(([1, 2], None)) == [Strict(1, None), Strict(2, None)]


def test_fields_of_a_list_are_gathered_by_name_whatever_their_order() -> None:
    types = {"changes": list[Change], "least": int | UnsetType}
    changes = [Change(name="a", id=1), Change(id=2), Change(name=None, id=3)]
    for names in (("changes.id", "least", "changes.name"), ("changes.name", "changes.id", "least")):
        given = make_arrange("q", names, types)({"changes": changes, "least": UNSET})
        known = {"changes.id": [1, 2, 3], "changes.name": ["a", None, None], "least": None}
        assert given == [known[name] for name in names]


async def listing(self) -> list[Pair]: ...
async def listings(self) -> list[list[Pair]]: ...
async def scalars(self) -> list[int]: ...
async def one(self) -> Pair: ...
async def maybe(self) -> list[Pair | None]: ...
async def taking(self, *, changes: list[Change]) -> int: ...


SIGNATURES = [
    (listing, "columns", "select 1", []),
    (scalars, "columns", "select 1", ["a list of structs as the result of :columns"]),
    (listings, "columns", "select 1", []),
    (listings, "many", "select 1", ["a list as the result of :many"]),
    (one, "columns", "select 1", ["a list of structs as the result of :columns"]),
    (maybe, "columns", "select 1", ["a list of structs as the result of :columns"]),
    (taking, "execrows", "delete from pairs where id = any(:changes.id)", []),
    (taking, "execrows", "delete from pairs where id = any(:changes.ident)", ["a field ident in Change"]),
    (taking, "execrows", "delete from pairs where id = any(:changes)", [":changes.field, since it is a struct"]),
]  # fmt: skip


@pytest.mark.parametrize(("method", "kind", "statement", "expected"), SIGNATURES)
def test_a_signature_must_be_of_its_kind(method: Any, kind: str, statement: str, expected: list[str]) -> None:
    (query,) = read_queries(f"-- name: q :{kind}\n{statement};", Path("made.sql")).values()
    assert [mismatch.expected for mismatch in compare(query, read_signature("q", method))] == expected
