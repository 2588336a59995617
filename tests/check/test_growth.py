"""`@hot` means that what a query examines does not grow with the table, and what it rests on is written down."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import msgspec
import pytest

from svc.check.command import Proofs, prove_all
from svc.check.scratch import connect
from svc.database_url import DatabaseUrl
from svc.postgres.queries import Signature
from tests.support import NUMBERS, TEMPLATE, at, make_config
from tests.support.proofs import Pair, having, pair

SCHEMA = """
create type mood as enum ('glad', 'sad');
create domain short as text check (length(value) < 100);
create table writers (id bigint generated always as identity primary key, name text not null);
create table notes (
    id bigint generated always as identity primary key,
    writer_id bigint not null references writers,
    text short not null default 'none',
    moods mood[] not null default '{}',
    done boolean not null,
    made_at timestamptz not null default now()
);
create index notes_writer_id_id_idx on notes (writer_id, id);
create view titles as select id, upper(left(text, 3)) as title, done from notes;
create function shout(text) returns text language sql immutable as 'select upper($1)';
create function greet(text) returns text language plpgsql as 'begin return shout($1) || 1; end';
"""


@pytest.fixture(scope="module")
def url(server_url: DatabaseUrl, admin: Callable[[str], None]) -> Iterator[DatabaseUrl]:
    with having(server_url, admin, SCHEMA) as made:
        yield made


def prove(
    url: DatabaseUrl, admin: Callable[[str], None], change: str, *pairs: Pair, filled: bool = False
) -> Proofs:
    """What is found in a copy of the database after a change."""

    async def run(copy: DatabaseUrl) -> Proofs:
        connection = await connect(make_config(copy))
        try:
            await connection.execute(change)
            return await prove_all(connection, pairs, filled=filled)
        finally:
            await connection.close()

    name = f"{TEMPLATE}_{next(NUMBERS)}"
    admin(f"create database {name} template {url.partition('?')[0].rpartition('/')[2]}")
    try:
        return asyncio.run(run(at(url, name)))
    finally:
        admin(f"drop database {name} with (force)")


def query(statement: str, marks: str = "-- @hot\n", kind: str = "many", **types: Any) -> Pair:
    """A query of numbers, with its signature."""

    def made() -> None: ...

    row = None if kind == "execrows" else int
    return pair(made, statement, kind, marks)[0], Signature("made", types, row, kind == "many", False)


LIST = "select id from notes where writer_id = :writer and id > :after order by id limit :limit"
FILTERED = "select id from notes where (:done::boolean is null or done = :done) order by id limit 10"
GROWS = "ever more rows examined as the table grows"
BY_WRITER = "drop index notes_writer_id_id_idx"

BOUNDED = [
    query("select id from notes where id = any(:ids)", ids=list[int]),
    query("select coalesce(max(id), 0) as id from notes", kind="one"),
    query(LIST, writer=int, after=int, limit=int),
    query("select id from notes where id > :after order by id limit 5", after=int),
    query("select n.id from notes n join writers w on w.id = n.writer_id where n.id = :id", id=int),
    query("update notes set text = :text where id = :id", kind="execrows", text=str, id=int),
    query("delete from writers where id = :id", kind="execrows", id=int),
    query(
        FILTERED, "-- @hot\n-- @unindexed: done: rows are walked until the page is full\n", done=bool | None
    ),
]


def test_what_an_index_finds_does_not_grow_with_the_table(
    url: DatabaseUrl, admin: Callable[[str], None]
) -> None:
    assert prove(url, admin, "select", *BOUNDED).findings == []


GROWING = [
    ("an index of something else", BY_WRITER, query(LIST, writer=int, after=int, limit=int),
     "an index that finds :writer, or a mark: -- @unindexed: writer: why, since it is @hot"),
    ("an index turned round", f"{BY_WRITER}; create index on notes (made_at, writer_id)",
     query(LIST, writer=int, after=int, limit=int), "an index that finds :writer, or a mark"),
    ("a filter that is not marked", "select", query(FILTERED, done=bool | None), "an index that finds :done, or a mark"),
    ("a whole index", "select", query("select id from notes order by writer_id, id"),
     "as many rows examined in a large table as in a small one"),
    ("a look for rows that refer", BY_WRITER, query("delete from writers where id = :id", kind="execrows", id=int),
     "an index on notes (writer_id), since it is @hot and looks there for rows that refer"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change", "grown", "expected"), GROWING, ids=[case[0] for case in GROWING])
def test_what_grows_with_the_table_is_found(
    url: DatabaseUrl, admin: Callable[[str], None], what: str, change: str, grown: Pair, expected: str
) -> None:
    found = prove(url, admin, change, grown).findings
    assert {finding.kind for finding in found} == {"plan"}, what
    assert [finding for finding in found if finding.expected.startswith(expected)], found


MARKS = [
    ("-- @hot\n-- @unindexed: after: why\n", "no @unindexed for after"),
    ("-- @hot\n-- @unindexed: after\n", "@unindexed: parameters: why, of a query that is @hot; after"),
    ("-- @hot\n-- @unindexed: afetr: why\n", "@unindexed: parameters: why, of a query that is @hot; after"),
    ("-- @unindexed: after: why\n", "@unindexed: parameters: why, of a query that is @hot; after"),
]


def test_marks_that_say_nothing_true_are_found(url: DatabaseUrl, admin: Callable[[str], None]) -> None:
    statement = "select id from notes where id > :after order by id limit 5"
    found = prove(url, admin, "select", *(query(statement, marks, after=int) for marks, _ in MARKS)).findings
    said = {(finding.kind, finding.expected) for finding in found}
    assert {("annotation", expected) for _, expected in MARKS} <= said


def footprint(url: DatabaseUrl, admin: Callable[[str], None], statement: str, **types: Any) -> dict[str, Any]:
    """What is written down of a query that returns a number."""
    kind = "many" if " as n" in statement else "execrows"
    proofs = prove(url, admin, "select", query(statement, "", kind, **types), filled=True)
    assert [finding for finding in proofs.findings if not finding.warning] == []
    return dict(msgspec.to_builtins(proofs.proven.queries["made"]))


def test_what_a_query_names_and_does_is_written_down(url: DatabaseUrl, admin: Callable[[str], None]) -> None:
    of = partial(footprint, url, admin)
    assert of("select n.id as n from notes n join writers w on w.id = n.writer_id and w.name > ''") == {
        "names": ["notes.id", "notes.writer_id", "writers.id", "writers.name"],
        "not_null": ["notes.id"],
        "reads": ["notes", "writers"],
    }
    assert of("select id as n from titles where done and greet(title) = 'a'") == {
        "names": ["view titles", "function greet(text)", "function shout(text)", "notes.done", "notes.id", "notes.text",
                  "titles.done", "titles.id", "titles.title", "type short"],
        "not_null": ["notes.id"],
        "reads": ["titles", "notes"],
    }  # fmt: skip
    assert of("insert into notes (writer_id, done, moods) values (:id, true, :moods) returning id as n",
              id=int, moods=list[Literal["glad", "sad"]]) == {
        "names": ["notes.id", "type mood"],
        "not_null": ["notes.id"],
        "reads": ["notes"],
        "inserts": {"notes": ["writer_id", "moods", "done"]},
        "constraints": ["notes_writer_id_fkey"],
    }  # fmt: skip
    assert of("update writers set name = :name where id = 1", name=str) == {
        "names": ["writers.id"],
        "reads": ["writers"],
        "updates": {"writers": ["name"]},
        "constraints": ["notes_writer_id_fkey"],
    }
    assert of("merge into writers using notes on writers.id = notes.id when matched then delete") == {
        "names": ["notes.id", "writers.id"],
        "reads": ["writers", "notes"],
        "deletes": ["writers"],
        "walks": {"notes": ["btree (writer_id, id)"]},
        "constraints": ["notes_writer_id_fkey"],
    }
    assert of("select count(*) as n from notes") == {"reads": ["notes"]}
